"""The origin of a layer's activations as the suite knows it, for the files of the SAEs that are trained on them."""

from saelib.config import Config
from saelib.config.datasets import Text
from saelib.config.families import TokenModelSource
from saelib.config.files import HubFiles
from saelib.config.sites import Layer, number_of, site_of
from saelib.sae.origin import Origin

HOOKED = ("transformers", "transformers_vision")
"""Families whose hook points have names that other libraries use."""
HOOKS = {"residual": "hook_resid_post", "attention_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
"""Site -> TransformerLens's name of it within a block."""


def origin_of_layer(config: Config, model: str, layer: Layer) -> Origin:
    """Names the model, the hook point, the context and the data of a layer, as far as the config says.

    Layer i is the residual stream after block i, before any final norm: `hook_resid_post` of TransformerLens's block
    i - 1, which counts from 0. Layer 0 is the first block's input. The layer's other sites are `hook_attn_out` and
    `hook_mlp_out` of the same block.
    """
    options = config.models[model]
    source, dataset = options.source, config.datasets.get(options.dataset or "")
    weights = getattr(source, "weights", None)
    number = number_of(layer)
    hook = f"blocks.{number - 1}.{HOOKS[site_of(layer)]}" if number else "blocks.0.hook_resid_pre"
    return Origin(
        model_name=weights.hf if isinstance(weights, HubFiles) else model,
        hook_name=hook if source.family in HOOKED else None,
        context_size=source.max_length if isinstance(source, TokenModelSource) else None,
        dataset_path=dataset.hub.hf if isinstance(dataset, Text) and dataset.hub else None,
    )
