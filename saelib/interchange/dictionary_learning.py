"""The folder that dictionary_learning (`load_dictionary`) reads and its trainers write: config.json and ae.pt."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saelib.errors import UserError
from saelib.files.sealed import write_json
from saelib.interchange.fields import DICTIONARY_LEARNING
from saelib.interchange.reading import Config, read_config, read_torch
from saelib.interchange.refuse import refuse_bypass, refuse_token_norm
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.check import Shapes, check_k, check_tensors
from saelib.sae.file import HEADER, SavedSAE, latent_by_latent
from saelib.sae.fold import center_input, fold_preprocess, uncenter_input, unit_decoder
from saelib.sae.model import SAE
from saelib.sae.origin import Origin, origin_of, read_origin, with_origin

FILES = ("config.json", "ae.pt")

CLASSES = {
    "topk": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "relu": "AutoEncoder",
    "jumprelu": "JumpReluAutoEncoder",
}
OURS = {name: architecture for architecture, name in CLASSES.items()} | {
    "AutoEncoderNew": "relu",
    "MatryoshkaBatchTopKSAE": "batch_topk",
}
LINEAR: Shapes = {
    "encoder.weight": ("dict_size", "activation_dim"),
    "decoder.weight": ("activation_dim", "dict_size"),
    "encoder.bias": ("dict_size",),
}
PLAIN: Shapes = {
    "W_enc": ("activation_dim", "dict_size"),
    "W_dec": ("dict_size", "activation_dim"),
    "b_enc": ("dict_size",),
    "b_dec": ("activation_dim",),
}
SHAPES: dict[str, Shapes] = {
    "AutoEncoder": {**LINEAR, "bias": ("activation_dim",)},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": ("activation_dim",)},
    "AutoEncoderTopK": {**LINEAR, "b_dec": ("activation_dim",)},
    "BatchTopKSAE": {**LINEAR, "b_dec": ("activation_dim",), "threshold": ()},
    "MatryoshkaBatchTopKSAE": {**PLAIN, "threshold": ()},
    "JumpReluAutoEncoder": {**PLAIN, "threshold": ("dict_size",)},
}
UNUSED = {"AutoEncoderTopK": {"threshold"}, "MatryoshkaBatchTopKSAE": {"group_sizes"}}
"""Tensors that take no part in a reconstruction."""
READ = {"dict_class", "activation_dim", "dict_size", "k"}
"""The settings of `trainer` that are followed or refused here."""
UNMEASURED = (
    "%s: its threshold is %g: training stopped before it was measured (after threshold_start_step steps). It is used "
    "as it is, as in their own encode: every latent above 0 fires, so that l0 is that of a ReLU, and not k"
)
UNCENTERED = {"AutoEncoderNew", "JumpReluAutoEncoder"}
"""Classes whose encoder reads x, and not x - b_dec."""

log = logging.getLogger(__name__)


def write(saved: SavedSAE, folder: Path) -> None:
    """Writes both files into `folder`.

    Their `AutoEncoder` normalizes the decoder when it is loaded. The file holds a normalized decoder already, so the
    codes of a `relu` SAE are ours times the norms of our decoder. Their `JumpReluAutoEncoder` does not center its
    input: if the mean is large, it is less precise than ours, above all after a whitening.
    """
    refuse_token_norm(saved, "dictionary_learning")
    refuse_bypass(saved, "dictionary_learning")
    if saved.sae.architecture not in CLASSES:
        raise UserError(
            f"dictionary_learning has no class for an SAE that is '{saved.sae.architecture}'; use --to saelens"
        )
    sae, origin = fold_preprocess(saved).sae, origin_of(saved.about)
    trainer: dict[str, Any] = {
        "dict_class": CLASSES[sae.architecture],
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "k": sae.k,
        "layer": saved.about.get("layer") if origin.hook_layer is None else origin.hook_layer,
        "lm_name": origin.model_name or saved.about.get("model"),
    }
    if origin.hook_name is not None:
        trainer["submodule_name"] = origin.hook_name
    config: dict[str, Any] = {"trainer": trainer, HEADER: saved.about}
    if origin.context_size is not None:
        config["buffer"] = {"d_submodule": sae.d_in, "io": "out", "ctx_len": origin.context_size}
    write_json(folder / FILES[0], config)
    torch.save({name: value.contiguous() for name, value in _their_tensors(sae).items()}, folder / FILES[1])


def read(folder: Path) -> SavedSAE:
    """Reads a dictionary of any class except `GatedAutoEncoder`, whose gate saelib does not have."""
    path = folder / FILES[1]
    config = read_config(folder / FILES[0])
    config.refuse_others({"trainer", "buffer", HEADER})
    trainer = config.section("trainer")
    architecture = trainer.choice("dict_class", OURS)
    kind = trainer.values["dict_class"]
    trainer.refuse_others(READ | DICTIONARY_LEARNING)
    _refuse_transcoder(config)
    stored = read_torch(path)
    k_stored = stored.pop("k", None)
    for name in UNUSED.get(kind, ()):
        stored.pop(name, None)
    tensors = check_tensors(stored, SHAPES[kind], path)
    sae = SAE(architecture, latent_by_latent(_our_names(tensors)))
    trainer.check_size("activation_dim", sae.d_in)
    trainer.check_size("dict_size", sae.d_sae)
    if architecture in ("topk", "batch_topk"):
        sae.k = check_k(trainer.values.get("k"), sae.d_sae, trainer.path)
        if k_stored is not None and (k_stored.numel() != 1 or k_stored.item() != sae.k):
            raise UserError(f"{path}: its 'k' is not the {sae.k} that {FILES[0]} has")
    if architecture == "batch_topk" and sae.threshold < 0:
        log.warning(UNMEASURED, path, sae.threshold.item())
    if kind in UNCENTERED:
        sae = center_input(sae)
    about = with_origin({"imported_from": "dictionary_learning", "config": config.values}, _origin(config))
    return SavedSAE(sae, Preprocessing(np.zeros(sae.d_in)), about)


def _origin(config: Config) -> Origin:
    """Reads the origin: our own note of it, or what the trainer and its buffer say."""
    ours, buffer, trainer = (config.values.get(name) for name in (HEADER, "buffer", "trainer"))
    if isinstance(ours, dict) and ours:
        return origin_of(ours)
    assert isinstance(trainer, dict)
    return read_origin(
        {
            "model_name": trainer.get("lm_name"),
            "hook_name": trainer.get("submodule_name"),
            "context_size": buffer.get("ctx_len") if isinstance(buffer, dict) else None,
        }
    )


def _refuse_transcoder(config: Config) -> None:
    """Refuses a dictionary that was trained to predict a module's output from its input."""
    if config.values.get("buffer") and config.section("buffer").values.get("io") == "in_and_out":
        raise UserError(
            f"{config.path}: 'io' of 'buffer' is 'in_and_out': this is a transcoder, which predicts something other "
            "than its input, which our SAEs do not"
        )


def _their_tensors(sae: SAE) -> dict[str, Tensor]:
    if sae.architecture == "jumprelu":
        return _values(uncenter_input(sae))
    ours = _values(unit_decoder(sae) if sae.architecture == "relu" else sae)
    theirs = {"encoder.weight": ours["W_enc"].T, "encoder.bias": ours["b_enc"], "decoder.weight": ours["W_dec"].T}
    if sae.architecture == "relu":
        return {**theirs, "bias": ours["b_dec"]}
    # -1 means that no threshold was measured; a TopK needs none.
    threshold = ours.get("threshold", torch.tensor(-1.0))
    return {**theirs, "b_dec": ours["b_dec"], "k": torch.tensor(sae.k, dtype=torch.int), "threshold": threshold}


def _our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if "W_enc" in tensors:
        return tensors
    renamed = {"encoder.bias": "b_enc", "bias": "b_dec", "decoder.bias": "b_dec"}
    ours = {renamed.get(name, name): value for name, value in tensors.items()}
    return {**ours, "W_enc": ours.pop("encoder.weight").T, "W_dec": ours.pop("decoder.weight").T}


def _values(sae: SAE) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in sae.state_dict().items()}
