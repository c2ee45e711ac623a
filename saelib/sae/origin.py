"""The origin of an SAE's activations: the model, the hook point and the context, as dashboards ask for them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

ORIGIN = "origin"
"""The key of an SAE's `about` that holds its origin."""


@dataclass(frozen=True)
class Origin:
    """The origin of activations, in SAELens's names; None stands for unknown."""

    model_name: str | None = None
    """The model: a name of the Hugging Face hub, or of TransformerLens."""
    hook_name: str | None = None
    """The place in the model: TransformerLens's `blocks.5.hook_resid_post`, or a module's path, `layers.5`."""
    hook_head_index: int | None = None
    """The attention head, if the activations are those of one head."""
    context_size: int | None = None
    """Tokens that the model read at once."""
    prepend_bos: bool | None = None
    """True if each context began with the beginning-of-sequence token."""
    dataset_path: str | None = None
    """The data set on the Hugging Face hub."""

    @property
    def hook_layer(self) -> int | None:
        """The block's number, from 0, that the hook point names."""
        number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", self.hook_name or "")
        return int(number[1]) if number else None

    def known(self) -> dict[str, Any]:
        """Gives the known fields, as JSON."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def saelens(self) -> dict[str, Any]:
        """Gives the metadata of SAELens's cfg.json, which SAEDashboard and Neuronpedia read.

        Models of TransformerLens must be loaded without centering their weights, which would shift the activations.
        """
        if self.model_name is None and self.hook_name is None:
            return self.known()
        hooked = "hook_" in (self.hook_name or "")
        return {
            **self.known(),
            "hook_layer": self.hook_layer,
            "hook_head_index": self.hook_head_index,
            "model_class_name": "HookedTransformer" if hooked else "AutoModelForCausalLM",
            "model_from_pretrained_kwargs": {"center_writing_weights": False} if hooked else {},
        }


UNKNOWN = Origin()
"""The origin of activations of which nothing is known."""
TYPES: dict[str, type] = {
    "model_name": str,
    "hook_name": str,
    "hook_head_index": int,
    "context_size": int,
    "prepend_bos": bool,
    "dataset_path": str,
}


def read_origin(values: Any) -> Origin:
    """Reads an origin from a mapping that anyone may have written; values of another type count as unknown."""
    if not isinstance(values, Mapping):
        return UNKNOWN
    names = [field.name for field in fields(Origin)]
    return Origin(**{name: values[name] for name in names if type(values.get(name)) is TYPES[name]})


def origin_of(about: Mapping[str, Any]) -> Origin:
    """Gives the origin of an SAE, from its `about`."""
    return read_origin(about.get(ORIGIN))


def without_origin(about: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the other entries of `about`."""
    return {name: value for name, value in about.items() if name != ORIGIN}


def with_origin(about: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """Gives `about` with the known fields of an origin; unchanged if there are none."""
    known = origin.known()
    return {**without_origin(about), **({ORIGIN: known} if known else {})}
