"""Sites: the places within a layer that activations are recorded at."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

Site = Literal["residual", "attention_out", "mlp_out"]
"""The residual stream after a block, or what the block's attention or MLP adds to the stream (docs/models.md)."""
SITES: tuple[Site, ...] = get_args(Site)

SITE_FAMILIES = (
    "transformers",
    "transformers_vision",
    "esm2",
    "esm3",
    "progen2",
    "glm2",
    "antiberty",
    "dinov2_onnx",
)
"""Families of models whose attention and MLP outputs can be recorded; the others have only the residual stream."""


class LayerSite(NamedTuple):
    """A site of a layer other than its residual stream."""

    layer: int
    site: Site

    def __str__(self) -> str:
        """Names it in messages: '5 mlp_out'."""
        return f"{self.layer} {self.site}"


Layer: TypeAlias = int | LayerSite
"""A layer's number stands for its residual stream, and a `LayerSite` for another site of it."""


def at_site(layer: int, site: Site) -> Layer:
    """Returns the `Layer` for a site: the number alone if the site is the residual stream."""
    return layer if site == "residual" else LayerSite(layer, site)


def number_of(layer: Layer) -> int:
    """Returns the number of a layer, whatever the site."""
    return layer.layer if isinstance(layer, LayerSite) else layer


def site_of(layer: Layer) -> Site:
    """Returns the site that `layer` stands for."""
    return layer.site if isinstance(layer, LayerSite) else "residual"


def file_stem(layer: Layer) -> str:
    """Returns the stem of result files: 'layer_5', or 'layer_5_mlp_out' at another site."""
    return f"layer_{layer}".replace(" ", "_")


def names(layers: Iterable[Layer]) -> str:
    """Writes layers in short, site after site: '1-3, 7, 1-3 mlp_out'."""
    found = list(layers)
    return ", ".join(
        f"{compact(numbers)} {site}".removesuffix(" residual")
        for site in SITES
        if (numbers := sorted(number_of(layer) for layer in found if site_of(layer) == site))
    )


def compact(layers: Sequence[int]) -> str:
    """Writes sorted layer numbers in short: (1, 2, 3, 7) -> '1-3, 7'."""
    parts: list[str] = []
    start = previous = layers[0]
    for layer in (*layers[1:], None):
        if layer is not None and layer == previous + 1:
            previous = layer
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        if layer is not None:
            start = previous = layer
    return ", ".join(parts)


def in_order(layers: Iterable[Layer]) -> list[Layer]:
    """Sorts by site, then by layer."""
    return sorted(layers, key=lambda layer: (SITES.index(site_of(layer)), number_of(layer)))


def every_site(layers: Sequence[int], sites: Sequence[Site]) -> tuple[Layer, ...]:
    """Returns each layer at each site, in the order of `in_order`."""
    return tuple(in_order(at_site(layer, site) for site in sites for layer in layers))
