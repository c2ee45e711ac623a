"""Runs an SAE over activations block by block, and keeps its codes sparse."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saelib.activations.rows import read_float32
from saelib.errors import UserError
from saelib.evaluation.inputs import Matrix, open_matrix, read_codes

ROWS = 1024
"""Rows that are encoded together."""


class EncodedBlock(NamedTuple):
    """Some tokens, with the SAE's output for them."""

    activations: NDArray[np.float32]
    """[tokens, d]"""
    reconstructions: Any
    """[tokens, d], an array or a tensor."""
    codes: Any
    """A `csr_array` [tokens, latents] without stored zeros."""


def encode_blocks(activations: Matrix, sae: Any, tokens: int | None = None) -> Iterator[EncodedBlock]:
    """Encodes and reconstructs activations, some rows at a time.

    Args:
        activations: An array, a tensor, opened activations, or a path, [tokens, d].
        sae: An SAE from `saelib.load_sae`, or any object whose `encode` makes codes of a torch tensor and whose
            `decode` turns them back, such as SAELens' and SAEBench's.
        tokens: Number of rows to read, from the first. Without it, all rows.

    Raises:
        UserError: If the object is not an SAE, if the widths differ, or if a code is NaN or infinite.
    """
    rows = open_matrix(activations, "activations")
    stop, step = min(tokens or rows.shape[0], rows.shape[0]), min(rows.block_rows, ROWS)
    for start in range(0, stop, step):
        x = read_float32(rows, start, min(start + step, stop))
        x_hat, codes = _run(sae, x)
        yield EncodedBlock(x, x_hat, read_codes(codes, "codes"))


def sparse_codes(activations: Matrix, sae: Any, tokens: int | None = None) -> Any:
    """Encodes activations into a sparse matrix, which all measures of codes take.

    Memory is that of the latents that fire: 8 bytes for each of them, however many latents there are.

    Args:
        activations: An array, a tensor, opened activations, or a path, [tokens, d].
        sae: An SAE from `saelib.load_sae`, or any object with `encode` and `decode` for torch tensors.
        tokens: Number of rows to encode, from the first. Without it, all rows.

    Returns:
        A `scipy.sparse.csr_array` [tokens, latents].

    Raises:
        UserError: If the object is not an SAE, if the widths differ, or if a code is NaN or infinite.

    Example:
        >>> class Doubled:
        ...     def encode(self, x): return x.relu()
        ...     def decode(self, z): return z
        >>> evaluation.sparse_codes(np.array([[1.0, -1], [0, 2]]), Doubled()).toarray().tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    return sparse.vstack([block.codes for block in encode_blocks(activations, sae, tokens)], format="csr")


def _run(sae: Any, x: NDArray[np.float32]) -> tuple[Any, Any]:
    """Gives the reconstructions [tokens, d] and the codes [tokens, latents] of activations."""
    if hasattr(sae, "reconstruct_and_encode"):
        return sae.reconstruct_and_encode(x)
    if hasattr(sae, "reconstruct"):
        return sae.reconstruct(x), sae.encode(x)
    if not (hasattr(sae, "encode") and hasattr(sae, "decode")):
        raise UserError(f"got {sae!r} as the SAE; should be one from saelib.load_sae, or have encode and decode")
    import torch

    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(x).to(getattr(sae, "device", "cpu")))
        return sae.decode(codes), codes
