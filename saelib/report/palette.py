"""Words and colors that figures and page share; color-blind readers can tell the colors (Okabe and Ito's) apart."""

from collections.abc import Sequence

from saelib.config import Config

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"

PREPROCESSINGS = {
    "raw": ("raw", VERMILLION),
    "center_median": ("centered on the geometric median", BLUE),
    "pca": ("PCA-whitened", GREEN),
}
"""The three candidates of a recommendation: their names in figures, and their colors."""

ADVICE = {"raw": "use as they are", "center_median": "center", "pca": "whiten"}
"""The page's words for each recommendation."""

CAUSES = {
    "dead_relu": ("never positive (ReLU)", VERMILLION),
    "dead_topk_only": ("positive, never selected (TopK)", SKY),
}
"""The two causes of death: their names in figures, and their colors."""

RATES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY)
"""Colors of the learning rates of a sweep, from the lowest."""


def domain_colors(config: Config) -> dict[str, str]:
    """Assigns each domain a color, in the order of the config; colors repeat after six."""
    domains = dict.fromkeys(model.domain for model in config.models.values())
    colors = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
    return {domain: colors[i % len(colors)] for i, domain in enumerate(domains)}


def line_colors(lines: Sequence[str], ordered: bool) -> dict[str, str]:
    """Assigns each line a color; those of an order run from light to dark, others repeat after six."""
    if not ordered:
        colors = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
        return {line: colors[i % len(colors)] for i, line in enumerate(lines)}
    return {line: _between(i / max(1, len(lines) - 1)) for i, line in enumerate(lines)}


SHADES = ("#9ecae1", "#0072B2", "#3b1a5a")
"""Colors of ordered lines: the first, the middle one and the last."""


def _between(share: float) -> str:
    """Mixes the shades, from the first (0) to the last (1)."""
    low = min(int(share * 2), 1)
    weight = share * 2 - low
    pair = [[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for shade in SHADES[low : low + 2]]
    mixed = [round(a + (b - a) * weight) for a, b in zip(*pair, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)
