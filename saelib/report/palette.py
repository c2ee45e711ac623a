"""Words and colors that figures and page share; the colors are Okabe and Ito's, for color-blind readers too."""

from saelib.config import Config

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"

PREPROCESSINGS = {
    "raw": ("raw", VERMILLION),
    "center_median": ("centered on the geometric median", BLUE),
    "pca": ("PCA-whitened", GREEN),
}
"""The three that a recommendation chooses from: what a figure calls them, and their color."""

ADVICE = {"raw": "use as they are", "center_median": "center", "pca": "whiten"}
"""What the page calls a recommendation."""


def domain_colors(config: Config) -> dict[str, str]:
    """A color for each domain, by its first appearance in the config; they repeat after six."""
    domains = dict.fromkeys(model.domain for model in config.models.values())
    colors = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
    return {domain: colors[i % len(colors)] for i, domain in enumerate(domains)}
