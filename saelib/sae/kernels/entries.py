"""Codes of a batch in the order of latents: what the gradients of one latent's weights are summed from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.forward import Codes
from saelib.sae.kernels.threads import Workers

CHUNKS = 16
"""Most runs of tokens that are counted apart."""
CHUNK_ENTRIES = 1 << 14
"""Fewer are not worth a run."""


class CodesByLatent(NamedTuple):
    """Latent j has the entries starts[j] to starts[j + 1], in the order of tokens."""

    starts: NDArray[np.int64]
    """[d_sae + 1]"""
    tokens: NDArray[np.int32]
    """[at least all entries]"""
    codes: NDArray[np.float32]
    """The same."""
    code_grads: NDArray[np.float32]
    """The same; derivatives of half the squared error by the codes."""


def empty_codes_by_latent(d_sae: int, capacity: int) -> CodesByLatent:
    """Room for `capacity`, holding none."""
    codes, code_grads = np.zeros(capacity, np.float32), np.zeros(capacity, np.float32)
    return CodesByLatent(np.zeros(d_sae + 1, np.int64), np.zeros(capacity, np.int32), codes, code_grads)


def group_by_latent(codes: Codes, code_grads: NDArray[np.float32], entries: CodesByLatent, workers: Workers) -> None:
    """Fills `entries` from codes and their code_grads [tokens, k]: a counting sort."""
    tokens, d_sae = len(codes.counts), len(entries.starts) - 1
    chunks = min(CHUNKS, 1 + codes.values.size // CHUNK_ENTRIES)
    bounds = np.linspace(0, tokens, chunks + 1).astype(int).tolist()
    places = np.zeros((chunks, d_sae), np.int64)
    workers.each(chunks, lambda c, _: count_entries(codes, bounds[c], bounds[c + 1], places[c]))
    entries.starts[1:] = np.cumsum(places.sum(0))
    places[1:] = np.cumsum(places[:-1], axis=0)
    places[0] = 0
    places += entries.starts[:-1]
    workers.each(chunks, lambda c, _: place_entries(codes, code_grads, bounds[c], bounds[c + 1], places[c], entries))


@kernel
def count_entries(codes: Codes, start: int, stop: int, counts: NDArray[np.int64]) -> None:
    """Adds the number of entries of each latent in tokens `start` to `stop`."""
    for token in range(start, stop):
        for q in range(codes.counts[token]):
            counts[codes.indices[token, q]] += 1


@kernel
def place_entries(
    codes: Codes,
    code_grads: NDArray[np.float32],
    start: int,
    stop: int,
    places: NDArray[np.int64],
    entries: CodesByLatent,
) -> None:
    """Writes the entries of tokens `start` to `stop`; those of latent j go to places[j] and on."""
    for token in range(start, stop):
        for q in range(codes.counts[token]):
            latent = codes.indices[token, q]
            place = places[latent]
            places[latent] = place + 1
            entries.tokens[place] = token
            entries.codes[place] = codes.values[token, q]
            entries.code_grads[place] = code_grads[token, q]
