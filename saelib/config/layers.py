"""Reads layers as they are written in a config: numbers, ranges and `all`."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationInfo

from saelib.config.sizes import every_layer
from saelib.config.sources import ArraysSource

MOST_BLOCKS = 10_000
"""More blocks than any model has; a larger number is a typo, and a range to it could fill the memory."""
UNKNOWN_BLOCKS = (
    "the model's number of blocks is not known without loading it; add it next to `layers`, such as `blocks: 12`, "
    "or write the range out, such as 1-12"
)

LayerSpan = Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=r"^\s*(all|\d+|\d+\s*-\s*\d*)\s*$")]
Layers = LayerSpan | list[LayerSpan]
"""Layers as they are written in the file; `parse_layers` reads them."""
ANY_LAYERS = tuple(range(1_000))
"""Layers of a model whose source or layers have a mistake, so that this mistake is the only one reported."""


def parse_layers(value: Any, every: Callable[[], Sequence[int] | None]) -> Any:
    """Turns `3`, `"1-12"`, `"5-"`, `"all"` or a list of these into a sorted tuple of layer numbers.

    Args:
        value: The value in the file.
        every: Returns all layers of the model, from 0, or None if they are not known. It is called for ranges without
            an end, and for `all`, which includes layer 0 only if there is no other.

    Raises:
        ValueError: For any other value, and if all layers would have to be known and are not.
    """
    items = value if isinstance(value, list | tuple) else [value]
    layers: set[int] = set()
    for item in items:
        span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", str(item))
        if any(int(number) > MOST_BLOCKS for number in re.findall(r"\d+", str(item))):
            raise ValueError(f"{item!r}: no model has a layer beyond {MOST_BLOCKS:,}")
        if item == "all" or (span and not span[2]):
            layers.update(_open_range(1 if item == "all" else int(span[1]) if span else 0, item, every()))
        elif span and int(span[1]) <= int(span[2]):
            layers.update(range(int(span[1]), int(span[2]) + 1))
        elif isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            layers.add(item)
        elif isinstance(item, str) and item.isdigit():
            layers.add(int(item))
        else:
            raise ValueError(f"{item!r} is not a layer number, a range such as '1-12' or '5-', or 'all'")
    if not layers:
        raise ValueError("names no layer")
    return tuple(sorted(layers))


def _open_range(first: int, item: str, every: Sequence[int] | None) -> Sequence[int]:
    if every is None:
        raise ValueError(UNKNOWN_BLOCKS)
    found = [layer for layer in every if layer >= first] or [layer for layer in every if item == "all"]
    if not found:
        raise ValueError(f"{item!r} begins after the last layer, {max(every)}")
    return found


def model_layers(value: Any, info: ValidationInfo) -> Any:
    """Parses the layers of a model, whose source has been read before."""
    source = info.data.get("source")
    if source is None:  # the source has a mistake, which is reported by itself
        return parse_layers(value, lambda: ANY_LAYERS)
    if isinstance(source, ArraysSource) and value == "all":
        return tuple(sorted(source.files))
    return parse_layers(value, lambda: every_layer(source, info.data.get("blocks")))


def some_of_the_layers(value: Any, info: ValidationInfo) -> Any:
    """Parses layers that are chosen from `layers`, all of which `all` means."""
    layers = info.data.get("layers", ANY_LAYERS)
    return None if value is None else layers if value == "all" else parse_layers(value, lambda: layers)
