"""The folder that SAELens 6 (`SAE.load_from_disk`) reads and writes: cfg.json and sae_weights.safetensors."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from saelib.errors import UserError
from saelib.files.sealed import write_json
from saelib.interchange.reading import Config, read_safetensors
from saelib.interchange.refuse import refuse_bypass
from saelib.interchange.saelens_settings import FACTOR, NORMALIZATIONS, read_settings, refuse_unknown, token_norm
from saelib.preprocessing.transform import Preprocessing, TokenNorm
from saelib.sae.check import Shapes, check_k, check_tensors
from saelib.sae.file import SavedSAE, latent_by_latent
from saelib.sae.fold import center_input, fold_preprocess, rescale_input, scale_decoder, unit_decoder
from saelib.sae.model import SAE
from saelib.sae.origin import Origin, origin_of, read_origin, with_origin, without_origin

FILES = ("cfg.json", "sae_weights.safetensors")
VERSION = "6.54.12"
"""The release whose reading and writing is tested. Below 6.0.0 SAELens drops metadata it does not know."""

ARCHITECTURES = {
    "topk": "topk",
    "abs_topk": "abstopk",
    "batch_topk": "jumprelu",
    "relu": "standard",
    "jumprelu": "jumprelu",
}
OURS = {"topk": "topk", "abstopk": "abs_topk", "standard": "relu", "jumprelu": "jumprelu"}
SHAPES: Shapes = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_in"),
    "b_enc": ("d_sae",),
    "b_dec": ("d_in",),
}

DIFFERENCES = {
    "none": None,
    "layernorm": "SAELens adds 1e-5 to a token's standard deviation s, LayerNorm to its variance: "
    "outputs differ by 5e-6 / s^2 of themselves",
    "sqrt_d": "SAELens makes NaN of a token of zeros, which has no norm; saelib leaves it as it is",
}
"""Differences between the computations of the two libraries, by token norm."""

log = logging.getLogger(__name__)


def write(saved: SavedSAE, folder: Path) -> None:
    """Writes both files into `folder`. A `batch_topk` SAE becomes a `jumprelu` with its one threshold."""
    refuse_bypass(saved, "SAELens")
    sae, norm = fold_preprocess(saved).sae, saved.preprocess.token_norm
    if norm == "layernorm":
        sae = rescale_input(sae, _unbiased(sae.d_in))
    if difference := DIFFERENCES[norm]:
        log.warning(difference)
    metadata = without_origin(saved.about) | origin_of(saved.about).saelens()
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[sae.architecture],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": NORMALIZATIONS[norm],
        "reshape_activations": "none",
        "metadata": {**metadata, "sae_lens_version": VERSION, "sae_lens_training_version": None},
    }
    if sae.architecture in ("topk", "abs_topk"):
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    tensors = {name: value.detach() for name, value in sae.state_dict().items()}
    if sae.architecture == "batch_topk":
        tensors["threshold"] = tensors["threshold"].expand(sae.d_sae)
    write_json(folder / FILES[0], config)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / FILES[1])


def read(folder: Path) -> SavedSAE:
    """Reads a `standard`, `topk`, `abstopk` or `jumprelu` SAE, also of SAELens before release 6."""
    path = folder / FILES[1]
    stored, config = read_settings(folder / FILES[0])
    architecture = config.choice("architecture", OURS)
    refuse_unknown(config)
    norm = token_norm(config)
    tensors = read_safetensors(path)
    shapes = {**SHAPES, "threshold": ("d_sae",)} if architecture == "jumprelu" else SHAPES
    if factor := _finetuning_factor(tensors, config, path):
        shapes = {**shapes, factor: ("d_sae",)}
    tensors = check_tensors(tensors, shapes, path)
    d_sae, d_in = tensors["W_dec"].shape
    config.check_size("d_in", d_in)
    config.check_size("d_sae", d_sae)
    k = check_k(config.values.get("k"), d_sae, config.path) if architecture in ("topk", "abs_topk") else None
    sae = _our_convention(SAE(architecture, latent_by_latent(tensors), k), config, norm)
    if factor:
        sae = scale_decoder(sae, tensors[factor])
    about = with_origin({"imported_from": "saelens", "config": stored.values}, _origin(stored))
    return SavedSAE(sae, Preprocessing(np.zeros(d_in), None, norm), about)


def _origin(stored: Config) -> Origin:
    """Reads the origin from the metadata, or, before release 6, from the settings themselves."""
    values, metadata = stored.values, stored.values.get("metadata")
    named = {**values, "hook_name": values.get("hook_name", values.get("hook_point"))}
    return read_origin({**named, **(metadata if isinstance(metadata, dict) else {})})


def _our_convention(sae: SAE, config: Config, norm: TokenNorm) -> SAE:
    """Converts an SAE that follows the rules of `config` into one that computes the same by our rules."""
    if config.flag("rescale_acts_by_decoder_norm", False):
        if sae.architecture not in ("topk", "abs_topk"):
            raise UserError(f"{config.path}: 'rescale_acts_by_decoder_norm' is true, which only a 'topk' can follow")
        sae = unit_decoder(sae)
    if not config.flag("apply_b_dec_to_input", True):
        sae = center_input(sae)
    if norm == "layernorm":
        sae = rescale_input(sae, 1 / _unbiased(sae.d_in))
    if difference := DIFFERENCES[norm]:
        log.warning(difference)
    if config.choice("reshape_activations", {"none": False, "hook_z": True}, default="none"):
        log.warning(
            "%s: this SAE reads the concatenated outputs of all attention heads of a layer (hook_z): "
            "give it rows of heads x d_head numbers, from before the output projection",
            config.path,
        )
    return sae


def _unbiased(d_in: int) -> float:
    """Computes the ratio of a token's biased standard deviation to its unbiased one."""
    if d_in == 1:
        raise UserError(
            "this SAE reads LayerNormed tokens of one dimension, which are always 0; it cannot be converted"
        )
    return math.sqrt((d_in - 1) / d_in)


def _finetuning_factor(tensors: dict[str, Tensor], config: Config, path: Path) -> str | None:
    """Finds the name in `tensors` of the factor that multiplies a finetuned SAE's codes before they are decoded.

    Early releases gave every SAE a factor of ones, which changes nothing: it is removed.
    """
    wanted = config.flag(FACTOR, False)
    name = next((name for name in ("scaling_factor", FACTOR) if name in tensors), None)
    if name is None and wanted:
        raise UserError(f"{config.path}: '{FACTOR}' is true, and {path.name} holds no such factor; false means none")
    if name and (tensors[name] == 1).all():
        del tensors[name]
        return None
    if name and not wanted:
        raise UserError(
            f"{path}: {name} is not 1 everywhere, and '{FACTOR}' in {config.path.name} is not true; set it to true to "
            "multiply the codes by it before they are decoded, as the SAE was finetuned, or take the tensor out"
        )
    return name
