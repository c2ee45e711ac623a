"""Words and colors that figures and page share; color-blind readers can tell the colors (Okabe and Ito's) apart."""

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
    """Assign each domain a color, in the order of the config; colors repeat after six."""
    domains = dict.fromkeys(model.domain for model in config.models.values())
    colors = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
    return {domain: colors[i % len(colors)] for i, domain in enumerate(domains)}
