"""An SAE as one safetensors file: its weights and its preprocessing."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saelib.errors import UserError
from saelib.files.publish import published_file
from saelib.preprocessing.transform import Preprocessing, TokenNorm
from saelib.sae.check import check_k, check_tensors, in_words
from saelib.sae.model import SAE, WITH_K, Architecture

HEADER = "saelib"
CHECKSUM = ', "sha256": "'
"""Mark before the checksum, the last value of our one header entry: safetensors writes several in any order."""
CENTER, SCALE = "preprocess_center", "preprocess_scale"
SHAPES = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_enc": ("d_sae",), "b_dec": ("d_in",)}
BYPASS_SHAPES = {"bypass_in": ("d_in", "rank"), "bypass_out": ("rank", "d_in")}
THRESHOLDS = {"jumprelu": ("d_sae",), "batch_topk": ()}


@dataclass(frozen=True, eq=False)
class SavedSAE:
    """An SAE with its preprocessing: it reads `preprocess.apply(x)`."""

    sae: SAE
    preprocess: Preprocessing
    """The preprocessing without the center that b_dec started from: that one is part of b_dec."""
    about: dict[str, Any]
    """Free text and figures: what it was trained on, with which options, and how it measured. JSON."""


def save_sae(saved: SavedSAE, path: Path) -> None:
    """Publishes an SAE at `path`."""
    sae, preprocess = saved.sae, saved.preprocess
    tensors = {name: value.detach().cpu().contiguous() for name, value in sae.state_dict().items()}
    # float64: rounding the center of activations with a large mean would move what a whitened SAE reads.
    tensors[CENTER] = torch.from_numpy(preprocess.center)
    if preprocess.scale is not None:
        tensors[SCALE] = torch.from_numpy(preprocess.scale).contiguous()
    about = {"architecture": sae.architecture, "k": sae.k, "token_norm": preprocess.token_norm, "about": saved.about}
    described = json.dumps(about)[:-1]
    header = f'{described}{CHECKSUM}{_checksum(described, tensors)}"}}'
    with published_file(path) as draft:
        save_file(tensors, draft, metadata={HEADER: header})


def load_sae(path: Path) -> SavedSAE:
    """Reads what `save_sae` wrote. Raises `UserError` if the file is missing, damaged or of another kind."""
    text, tensors = _contents(path)
    described, mark, end = text.rpartition(CHECKSUM)
    # A file of an earlier version has no checksum.
    if mark and end != f'{_checksum(described, tensors)}"}}':
        raise UserError(f"{path}: damaged, its checksum is wrong")
    try:
        # A figure that could not be measured (NaN) comes back as none.
        header = json.loads(text, parse_constant=lambda _: None)
        architecture, k, token_norm, about = (header[key] for key in ("architecture", "k", "token_norm", "about"))
        center, scale = tensors.pop(CENTER), tensors.pop(SCALE, None)
    except (LookupError, TypeError, ValueError, RecursionError):
        raise UserError(f"{path}: damaged, its description lacks what an SAE written by saelib has") from None
    for name, value, known in (
        ("architecture", architecture, get_args(Architecture)),
        ("token norm", token_norm, get_args(TokenNorm)),
    ):
        if value not in known:
            raise UserError(
                f"{path}: {name} is {in_words(value)}, which this version does not know: {', '.join(known)}"
            )
    if not isinstance(about, dict):
        raise UserError(f"{path}: what it says about the SAE is {in_words(about)}; should be an object of named values")
    threshold = {"threshold": THRESHOLDS[architecture]} if architecture in THRESHOLDS else {}
    bypass = {} if tensors.keys().isdisjoint(BYPASS_SHAPES) else BYPASS_SHAPES
    weights = check_tensors(tensors, {**SHAPES, **threshold, **bypass}, path)
    k = check_k(k, len(weights["W_dec"]), path) if architecture in WITH_K else None
    sae = SAE(architecture, latent_by_latent(weights), k)
    return SavedSAE(sae, _preprocess(center, scale, token_norm, sae.d_in, path), about)


def _contents(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Our description in the file, and its tensors."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; should be the file of one SAE, such as weights.safetensors of a variant")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged, or not an SAE written by saelib ({error})") from None
    if not text:
        raise UserError(
            f"{path}: a safetensors file, but not an SAE written by saelib; those of other libraries are read with "
            "saelib import"
        )
    return text, tensors


def _checksum(described: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over everything that `load_sae` reads."""
    found = hashlib.sha256(described.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).numpy().data)
    return found.hexdigest()


def latent_by_latent(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, W_enc laid out in memory as `SAE` wants it: as the transpose of what is contiguous."""
    return tensors | {"W_enc": tensors["W_enc"].T.contiguous().T}


def _preprocess(
    center: Tensor, scale: Tensor | None, token_norm: TokenNorm, d_sae_in: int, path: Path
) -> Preprocessing:
    tensors, shapes = {CENTER: center}, dict[str, tuple[str, ...]]({CENTER: ("d_model",)})
    if scale is not None:
        tensors[SCALE] = scale
        shapes[SCALE] = ("d_model",) if scale.ndim == 1 else ("d_model", "d_in")
    check_tensors(tensors, shapes, path)
    preprocess = Preprocessing(
        center.double().numpy(), None if scale is None else scale.float().contiguous().numpy(), token_norm
    )
    if preprocess.d_out != d_sae_in:
        raise UserError(f"{path}: the preprocessing gives {preprocess.d_out} dimensions; the SAE reads {d_sae_in}")
    return preprocess
