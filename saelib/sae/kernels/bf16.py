"""Selection in two stages: candidates from a product in bfloat16, the decision between them in float32."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.forward import Codes, empty_codes, encode_block, encode_buffers, keep_nothing, select_block
from saelib.sae.kernels.gather import dot
from saelib.sae.kernels.latents import Weights
from saelib.sae.kernels.select import SelectBuffers, row_length, select_buffers, select_row
from saelib.sae.kernels.state import Parameters
from saelib.sae.kernels.threads import Workers

log = logging.getLogger(__name__)

ROWS = 256
"""Tokens multiplied at a time."""
SPARE = 4
"""One more candidate for so many that are wanted, and 8 at least."""
CHECK_EVERY = 50
"""Steps between two comparisons with a selection in float32."""
CHECK_TOKENS = 64
"""Of a batch, compared."""
TOLERANCE = 1e-3
"""Share of selected latents that may differ; beyond that, float32 alone from then on."""


class TwoStageSelection:
    """Codes of a batch, and the proof on the fly that they are those of float32.

    Pre-activations count as positive by their sign in bfloat16.
    """

    def __init__(self, parameters: Parameters, k: int) -> None:
        """For an SAE that selects k latents of each token."""
        self.trusted = True
        """Whether every comparison so far found the selection of float32."""
        self.parameters, self.k = parameters, k
        self.candidates = min(k + max(k // SPARE, 8), parameters.d_sae)
        self.buffers = encode_buffers(ROWS, parameters.d_sae, self.candidates)

    def encode(self, centred: NDArray[np.float32], codes: Codes, workers: Workers) -> None:
        """Write the codes of `centred` [tokens, width], and to `buffers` which latents were positive."""
        tokens, weights = len(centred), self.parameters.latents
        rough = self._select_roughly(centred)
        length = row_length(self.candidates, self.k)
        own = [
            (np.empty((1, length), np.float32), select_buffers(self.candidates, self.k)) for _ in range(workers.count)
        ]

        def decide(block: int, worker: int) -> None:
            start, stop = block * ROWS, min((block + 1) * ROWS, tokens)
            decide_block(centred, start, stop, weights, rough, codes, *own[worker])

        workers.each(-(-tokens // ROWS), decide)

    def _select_roughly(self, centred: NDArray[np.float32]) -> Codes:
        d_in, d_sae, weights = self.parameters.d_in, self.parameters.d_sae, self.parameters.latents
        W = torch.from_numpy(weights.W_enc[:, :d_in]).bfloat16()
        x = torch.from_numpy(centred[:, :d_in]).bfloat16()
        bias, hidden = torch.from_numpy(weights.b_enc[:d_sae]), torch.from_numpy(self.buffers.hidden[:, :d_sae])
        rough = empty_codes(len(x), self.candidates)
        self.buffers.positive[:] = 0
        for start in range(0, len(x), ROWS):
            block = x[start : start + ROWS]
            torch.add(torch.mm(block, W.T), bias, out=hidden[: len(block)])
            select_block(start, start + len(block), rough, keep_nothing(len(x)), self.buffers)
        return rough

    def check(self, x: NDArray[np.float32], codes: Codes, panels: NDArray[np.float32]) -> None:
        """Select for some tokens of a batch in float32 as well; on differences beyond TOLERANCE, trust no more."""
        tokens = np.unique(np.linspace(0, len(x) - 1, CHECK_TOKENS).astype(int))
        sample, exact = x[tokens], empty_codes(len(tokens), self.k)
        buffers, centred = encode_buffers(len(sample), self.parameters.d_sae, self.k), np.zeros_like(sample)
        b_dec, b_enc, nothing = self.parameters.b_dec, self.parameters.latents.b_enc, keep_nothing(len(sample))
        encode_block(sample, 0, len(sample), b_dec, panels, b_enc, centred, exact, nothing, buffers)
        pairs = [(_selected(exact, row), _selected(codes, token)) for row, token in enumerate(tokens)]
        missed, total = sum(len(a - b) for a, b in pairs), sum(len(a) for a, _ in pairs)
        if missed > TOLERANCE * total:
            self.trusted = False
            log.warning("bfloat16 missed %d of %d selected latents: selecting in float32 from here on", missed, total)


def _selected(codes: Codes, token: int) -> set[int]:
    return set(codes.indices[token, : codes.counts[token]].tolist())


@kernel
def decide_block(
    centred: NDArray[np.float32],
    start: int,
    stop: int,
    weights: Weights,
    rough: Codes,
    codes: Codes,
    row: NDArray[np.float32],
    buffers: SelectBuffers,
) -> None:
    """Codes of tokens `start` to `stop` among their candidates; `row` [1, row_length] is a buffer."""
    for token in range(start, stop):
        count = rough.counts[token]
        row[:] = -np.inf
        for q in range(count):
            latent = rough.indices[token, q]
            row[0, q] = dot(weights.W_enc, latent, centred, token) + weights.b_enc[latent]
        found = select_row(row, 0, row.shape[1], buffers, codes.values, codes.indices, token)
        for q in range(found):
            codes.indices[token, q] = rough.indices[token, codes.indices[token, q]]
        codes.counts[token] = found
