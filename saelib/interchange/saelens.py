"""The folder that SAELens 6 (`SAE.load_from_disk`) reads and writes: cfg.json and sae_weights.safetensors."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from saelib.errors import UserError
from saelib.files import write_json
from saelib.interchange.fold import centre_input, fold_preprocess, rescale_input, unit_decoder
from saelib.interchange.reading import Config, read_config, read_safetensors
from saelib.preprocess import Preprocess
from saelib.sae.check import Shapes, check_k, check_tensors
from saelib.sae.file import SavedSAE, latent_by_latent
from saelib.sae.model import SAE

FILES = ("cfg.json", "sae_weights.safetensors")
VERSION = "6.54.0"
"""The release whose reading and writing is tested. Below 6.0.0 SAELens drops metadata it does not know."""

ARCHITECTURES = {"topk": "topk", "batch_topk": "jumprelu", "relu": "standard", "jumprelu": "jumprelu"}
OURS = {"topk": "topk", "standard": "relu", "jumprelu": "jumprelu"}
NORMALIZATIONS = {"none": "none", "layernorm": "layer_norm", "sqrt_d": "constant_norm_rescale"}
TOKEN_NORMS = {theirs: ours for ours, theirs in NORMALIZATIONS.items()}
SHAPES: Shapes = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_in"),
    "b_enc": ("d_sae",),
    "b_dec": ("d_in",),
}

log = logging.getLogger(__name__)


def write(saved: SavedSAE, folder: Path) -> None:
    """Write both files into `folder`. A `batch_topk` SAE becomes a `jumprelu` with its one threshold."""
    sae, token_norm = fold_preprocess(saved).sae, saved.preprocess.token_norm
    if token_norm == "layernorm":
        sae = rescale_input(sae, _unbiased(sae.d_in))
        log.warning(
            "SAELens adds 1e-5 to a token's standard deviation s, LayerNorm to its variance: "
            "outputs differ by 5e-6 / s^2 of themselves"
        )
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[sae.architecture],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": NORMALIZATIONS[token_norm],
        "reshape_activations": "none",
        "metadata": {**saved.about, "sae_lens_version": VERSION, "sae_lens_training_version": None},
    }
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    tensors = {name: value.detach() for name, value in sae.state_dict().items()}
    if sae.architecture == "batch_topk":
        tensors["threshold"] = tensors["threshold"].expand(sae.d_sae)
    write_json(folder / FILES[0], config)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / FILES[1])


def read(folder: Path) -> SavedSAE:
    """Read `standard`, `topk` and `jumprelu` SAEs, also of SAELens before 6."""
    path = folder / FILES[1]
    config = read_config(folder / FILES[0])
    _modernize(config.values)
    architecture = config.choice("architecture", OURS)
    token_norm = _token_norm(config)
    shapes = {**SHAPES, "threshold": ("d_sae",)} if architecture == "jumprelu" else SHAPES
    tensors = check_tensors(read_safetensors(path), shapes, path)
    d_sae, d_in = tensors["W_dec"].shape
    config.check_size("d_in", d_in)
    config.check_size("d_sae", d_sae)
    sae = SAE(architecture, latent_by_latent(tensors), None)
    if architecture == "topk":
        sae.k = check_k(config.values.get("k"), d_sae, config.path)
        if config.flag("rescale_acts_by_decoder_norm", False):
            sae = unit_decoder(sae)
    if not config.flag("apply_b_dec_to_input", True):
        sae = centre_input(sae)
    if token_norm == "layernorm":
        sae = rescale_input(sae, 1 / _unbiased(d_in))
    about = {"imported_from": "saelens", "config": config.values}
    return SavedSAE(sae, Preprocess(np.zeros(d_in), None, token_norm), about)


def _unbiased(d_in: int) -> float:
    """A token divided by its unbiased standard deviation, over the same token divided by the biased one."""
    if d_in == 1:
        raise UserError(
            "this SAE reads LayerNormed tokens of one dimension, which are always 0; it cannot be converted"
        )
    return math.sqrt((d_in - 1) / d_in)


def _token_norm(config: Config) -> Any:
    if config.values.get("normalize_activations") in ("expected_average_only_in", "covariance_whitening"):
        raise UserError(
            f"{config.path}: 'normalize_activations' is '{config.values['normalize_activations']}', whose scale lies "
            "outside this folder; fold it into the weights with SAELens first, then the value is 'none'"
        )
    return config.choice("normalize_activations", TOKEN_NORMS, default="none")


def _modernize(values: dict[str, Any]) -> None:
    """Give the settings of a release before 6 the form they have now, by SAELens's own defaults."""
    values.setdefault("architecture", "standard")
    if isinstance(averaged := values.get("normalize_activations"), bool):
        values["normalize_activations"] = "expected_average_only_in" if averaged else "none"
    kind = values.get("activation_fn_str", values.get("activation_fn", "relu"))
    if kind == "topk" and isinstance(options := values.get("activation_fn_kwargs"), dict):
        values |= {"architecture": "topk", "k": options.get("k")}
