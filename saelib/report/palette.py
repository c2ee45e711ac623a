"""Colours shared by the figures and the page: Okabe and Ito's, which colour-blind readers tell apart."""

from saelib.config import Config

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"

PREPROCESSINGS = {
    "raw": ("raw", VERMILLION),
    "center_median": ("centred on the geometric median", BLUE),
    "pca": ("PCA-whitened", GREEN),
}
"""The three that a recommendation chooses from: what a figure calls them, and their colour."""


def domain_colours(config: Config) -> dict[str, str]:
    """A colour for each domain, by its first appearance in the config; they repeat after six."""
    domains = dict.fromkeys(model.domain for model in config.models.values())
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
    return {domain: colours[i % len(colours)] for i, domain in enumerate(domains)}
