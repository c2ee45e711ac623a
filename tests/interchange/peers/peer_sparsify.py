"""sparsify loads our exports, and saves a coder of its own."""

from pathlib import Path

import torch
from common import Outputs, fill, serve
from sparsify.config import SparseCoderConfig
from sparsify.sparse_coder import SparseCoder


def load(folder: Path, x: torch.Tensor) -> Outputs:
    return outputs(SparseCoder.load_from_disk(folder), x)


def make(folder: Path, x: torch.Tensor) -> dict[str, Outputs]:
    coders = {
        "topk": SparseCoder(x.shape[1], SparseCoderConfig(num_latents=40, k=5)),
        "topk_expansion": SparseCoder(x.shape[1], SparseCoderConfig(expansion_factor=2, k=5)),
    }
    for name, coder in coders.items():
        fill(coder, x)
        coder.save_to_disk(folder / name)
    return {name: outputs(coder, x) for name, coder in coders.items()}


def outputs(coder: SparseCoder, x: torch.Tensor) -> Outputs:
    encoded = coder.encode(x)
    codes = torch.zeros_like(encoded.pre_acts).scatter(1, encoded.top_indices, encoded.top_acts)
    return codes, coder(x).sae_out


serve(load, make)
