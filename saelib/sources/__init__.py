"""Models as sources of activations: one module for each family, imported when it is used."""

from importlib import import_module

from saelib.config import SourceConfig
from saelib.environments import explain_missing_extras
from saelib.sources.base import Activations, Source

FAMILIES = {
    "transformers": "saelib.sources.transformers",
    "transformers_vision": "saelib.sources.transformers_vision",
    "esm2": "saelib.sources.esm2",
    "esm3": "saelib.sources.esm3",
    "progen2": "saelib.sources.progen2",
    "glm2": "saelib.sources.glm2",
    "evo": "saelib.sources.evo",
    "stable_diffusion_3": "saelib.sources.stable_diffusion_3",
    "alphafold3": "saelib.sources.alphafold3",
    "module": "saelib.sources.module",
    "plugin": "saelib.sources.plugin",
    "antiberty": "saelib.sources.antiberty",
    "dinov2_onnx": "saelib.sources.dinov2_onnx",
    "spliceai": "saelib.sources.spliceai",
    "arrays": "saelib.activations.open",
}
"""Family in the config -> its module, which has a function `open_source(config, device, dtype)`.

The exception is `arrays`, which has no model to run: see `saelib.activations.open.open_rows`.
"""


def open_source(config: SourceConfig, device: str = "cpu", dtype: str = "float32") -> Source:
    """Fetches the weights if necessary and loads the model.

    Args:
        config: The `source` of a model in the suite, of any family except `arrays`.
        device: The device that torch runs it on: "cpu", "cuda", "cuda:1".
        dtype: Precision of the forward pass: "float32", "bfloat16" or "float16". The activations are always float32.

    Raises:
        UserError: if packages, files or the device are missing, or the files do not hold such a model.
    """
    with explain_missing_extras("models"):
        return import_module(FAMILIES[config.family]).open_source(config, device, dtype)


__all__ = ["FAMILIES", "Activations", "Source", "open_source"]
