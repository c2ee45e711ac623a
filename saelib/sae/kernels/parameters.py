"""Parameters as arrays of the kernels, which are wider than an SAE's tensors: rows fill whole vectors."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.sae.kernels.gemm import padded
from saelib.sae.kernels.latents import Weights
from saelib.sae.kernels.llvm.vector import LANES
from saelib.sae.model import SAE


def row_width(d_in: int) -> int:
    """Floats of a row of the kernels' arrays."""
    return -(-d_in // LANES) * LANES


class Parameters:
    """All parameters of an SAE, or moments of their gradients, as the kernels read them."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        """All values are zero."""
        self.d_in, self.d_sae = d_in, d_sae
        width = row_width(d_in)
        self.latents = Weights(
            np.zeros((d_sae, width), np.float32),
            np.zeros((d_sae, width), np.float32),
            np.zeros(padded(d_sae), np.float32),
        )
        self.b_dec: NDArray[np.float32] = np.zeros(width, np.float32)

    def views(self) -> dict[str, Tensor]:
        """The arrays without padding, named and oriented as in `SAE`; writing to them changes the arrays."""
        latents = self.latents
        return {
            "W_enc": torch.from_numpy(latents.W_enc[:, : self.d_in]).T,
            "W_dec": torch.from_numpy(latents.W_dec[:, : self.d_in]),
            "b_enc": torch.from_numpy(latents.b_enc[: self.d_sae]),
            "b_dec": torch.from_numpy(self.b_dec[: self.d_in]),
        }

    def load(self, tensors: dict[str, Tensor], prefix: str = "") -> None:
        """Copies tensors named `prefix` + name of the parameter."""
        for name, view in self.views().items():
            view.copy_(tensors[prefix + name])

    def copies(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Copies, as `load` takes them: contiguous, and apart from the arrays."""
        for name, view in self.views().items():
            yield prefix + name, view.clone(memory_format=torch.contiguous_format)


def sae_of(parameters: Parameters, k: int, threshold: Tensor | None = None) -> SAE:
    """An SAE whose tensors are views of the arrays: BatchTopK if it has a threshold [], else TopK."""
    if threshold is None:
        return SAE("topk", parameters.views(), k)
    return SAE("batch_topk", parameters.views() | {"threshold": threshold}, k)
