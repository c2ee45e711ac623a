"""An SAE as one safetensors file: its weights, and what turns an activation into what it reads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saelib.errors import UserError
from saelib.files import published_file
from saelib.preprocess import Preprocess
from saelib.sae.model import SAE

HEADER = "saelib"
CENTER, SCALE = "preprocess_center", "preprocess_scale"


@dataclass(frozen=True, eq=False)
class SavedSAE:
    """An SAE with its preprocessing: it reads `preprocess.apply(x)`."""

    sae: SAE
    preprocess: Preprocess
    """Without the centre that b_dec started from: that one is part of b_dec."""
    about: dict[str, Any]
    """Free: what it was trained on, by which options, and how it measured. JSON."""


def save_sae(saved: SavedSAE, path: Path) -> None:
    """Publish an SAE at `path`."""
    sae, preprocess = saved.sae, saved.preprocess
    tensors = {name: value.detach().cpu().contiguous() for name, value in sae.state_dict().items()}
    if preprocess.center.any():
        tensors[CENTER] = torch.from_numpy(preprocess.center.astype(np.float32))
    if preprocess.scale is not None:
        tensors[SCALE] = torch.from_numpy(preprocess.scale).contiguous()
    header = {
        "architecture": sae.architecture,
        "k": sae.k,
        "token_norm": preprocess.token_norm,
        "about": saved.about,
    }
    with published_file(path) as draft:
        save_file(tensors, draft, metadata={HEADER: json.dumps(header)})


def load_sae(path: Path) -> SavedSAE:
    """Read what `save_sae` wrote. Raises `UserError` where the file is missing, damaged or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        center, scale = tensors.pop(CENTER, None), tensors.pop(SCALE, None)
        sae = SAE(header["architecture"], _latent_by_latent(tensors), header["k"])
        preprocess = Preprocess(
            np.zeros(sae.d_in) if center is None else center.double().numpy(),
            None if scale is None else scale.numpy(),
            header["token_norm"],
        )
        return SavedSAE(sae, preprocess, header["about"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not an SAE written by saelib ({error})") from None


def _latent_by_latent(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """W_enc as the transpose of what lies contiguous in memory."""
    return tensors | {"W_enc": tensors["W_enc"].T.contiguous().T}
