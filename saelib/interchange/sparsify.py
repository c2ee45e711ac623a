"""The folder that sparsify (`SparseCoder.load_from_disk`) reads and writes: cfg.json and sae.safetensors."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from saelib.errors import UserError
from saelib.files.sealed import write_json
from saelib.interchange.fields import SPARSIFY
from saelib.interchange.reading import Config, read_config, read_safetensors
from saelib.interchange.refuse import refuse_bypass, refuse_token_norm
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.check import Shapes, check_k, check_tensors
from saelib.sae.file import HEADER, SavedSAE, latent_by_latent
from saelib.sae.fold import fold_preprocess
from saelib.sae.model import SAE
from saelib.sae.origin import UNKNOWN, Origin, origin_of, read_origin, with_origin

FILES = ("cfg.json", "sae.safetensors")
SHAPES: Shapes = {
    "encoder.weight": ("num_latents", "d_in"),
    "W_dec": ("num_latents", "d_in"),
    "encoder.bias": ("num_latents",),
    "b_dec": ("d_in",),
}
READ = {
    *("activation", "k", "d_in", "num_latents", "expansion_factor"),
    *("skip_connection", "transcode", "signed", HEADER),
}
"""The settings that are followed or refused here, and the one that our own export adds."""
HOOKPOINT = re.compile(r"([a-z_]+\.)+\d+(\.[a-z_]+)*")
"""A module's path with its layer's number, which sparsify names an SAE's folder by: `layers.5`, `h.5.mlp`."""
NOT_OURS = {
    "skip_connection": "adds a linear map of its input",
    "transcode": "predicts something other than its input",
    "signed": "selects latents by absolute value",
}


def write(saved: SavedSAE, folder: Path) -> None:
    """Writes both files into `folder`; only a TopK SAE can be exported."""
    refuse_token_norm(saved, "sparsify")
    refuse_bypass(saved, "sparsify")
    if saved.sae.architecture != "topk":
        raise UserError(f"sparsify has TopK SAEs only, and this one is '{saved.sae.architecture}'; use --to saelens")
    sae = fold_preprocess(saved).sae
    norms = sae.W_dec.detach().norm(dim=1)
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        # Folding a whitening changes the norms; a run that starts from these weights must keep them.
        "normalize_decoder": torch.allclose(norms, torch.ones_like(norms), atol=1e-4),
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
        HEADER: saved.about,
    }
    write_json(folder / FILES[0], config)
    tensors = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, folder / FILES[1])


def read(folder: Path) -> SavedSAE:
    """Reads a TopK SAE; transcoders, skip connections and `groupmax` are refused."""
    path = folder / FILES[1]
    config = read_config(folder / FILES[0])
    config.refuse_others(READ | SPARSIFY)
    architecture = config.choice("activation", {"topk": "topk"}, default="topk")
    for key, what in NOT_OURS.items():
        if config.flag(key, False):
            raise UserError(f"{config.path}: '{key}' is true: it {what}, which our SAEs do not")
    _refuse_early_transcoder(config)
    tensors = check_tensors(read_safetensors(path), SHAPES, path)
    d_sae, d_in = tensors["W_dec"].shape
    config.check_size("d_in", d_in)
    if config.values.get("num_latents"):
        config.check_size("num_latents", d_sae)
    elif config.values.get("expansion_factor"):
        config.check_size("expansion_factor", d_sae // d_in)
    ours = {
        "W_enc": tensors["encoder.weight"].T,
        "W_dec": tensors["W_dec"],
        "b_enc": tensors["encoder.bias"],
        "b_dec": tensors["b_dec"],
    }
    sae = SAE(architecture, latent_by_latent(ours), check_k(config.values.get("k"), d_sae, config.path))
    about = with_origin({"imported_from": "sparsify", "config": config.values}, _origin(config))
    return SavedSAE(sae, Preprocessing(np.zeros(d_in)), about)


def _origin(config: Config) -> Origin:
    """Reads the origin: our own note of it, or the run's settings and the folder, whose name is the hook point."""
    if ours := config.values.get(HEADER):
        return origin_of(ours) if isinstance(ours, dict) else UNKNOWN
    run, folder = _run(config), config.path.resolve().parent.name
    names = {"model_name": run.get("model"), "context_size": run.get("ctx_len"), "dataset_path": run.get("dataset")}
    return read_origin({**names, "hook_name": folder if HOOKPOINT.fullmatch(folder) else None})


def _refuse_early_transcoder(config: Config) -> None:
    """Refuses a transcoder from before February 2025, which only the run's settings call one."""
    if "transcode" not in config.values and _run(config).get("transcode") is True:
        run = config.path.resolve().parent.parent / "config.json"
        raise UserError(f"{run}: 'transcode' is true: an SAE of this run {NOT_OURS['transcode']}")


def _run(config: Config) -> dict[str, Any]:
    """Reads the settings of the training run, one folder up; empty if there are none."""
    run = config.path.resolve().parent.parent / "config.json"
    with suppress(UserError):  # the file may belong to anything else
        return read_config(run).values
    return {}
