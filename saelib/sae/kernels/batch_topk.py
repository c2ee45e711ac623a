"""BatchTopK SAEs of any size on a CPU: the k * tokens largest positive pre-activations of a batch."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.sae.autograd.trainer import THRESHOLD_DECAY
from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.forward import (
    Codes,
    DeadPreActivations,
    EncodeBuffers,
    EncodedBatch,
    Encoder,
    center_rows,
    mark_positive,
)
from saelib.sae.kernels.gemm import gemm_rows
from saelib.sae.kernels.large import KernelTrainer
from saelib.sae.kernels.llvm.compress import compress_at_least
from saelib.sae.kernels.parameters import sae_of
from saelib.sae.kernels.passes import BatchCodes, block_bounds
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""The smallest float above 0: a bar that every positive pre-activation reaches."""
MARGIN = 0.9
"""Candidates are the pre-activations above the last batch's bar times this."""
SAMPLE = 64
"""Tokens from which the first bar is estimated."""
SPARE = 3
"""Candidates of a token that there is room for, in multiples of k, before any token needed more."""


class BatchTopKTrainer(KernelTrainer):
    """`KernelTrainer` for BatchTopK.

    The bar that k * tokens pre-activations of the batch reach moves little from step to step. So a block keeps the
    candidates above a slightly lower bar while its product is in cache, and the exact bar is found among the
    candidates of all blocks. If they are too few, the pass is repeated with a lower bar.
    """

    def __init__(self, sae: SAE, settings: TrainerSettings) -> None:
        """See `TopKTrainer`; `sae` is a BatchTopK SAE."""
        super().__init__(sae, settings)
        self._threshold = sae.threshold.detach().clone()
        self._sae = sae_of(self.parameters, self.k, self._threshold)
        self._bar = 0.0
        self._room = SPARE * self.k

    def state_dict(self) -> dict[str, Tensor]:
        """See `TopKTrainer`; `threshold` is the running average of the smallest selected value."""
        return super().state_dict() | {"threshold": self._threshold.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `TopKTrainer`."""
        super().load_state_dict(state)
        self._threshold.copy_(state["threshold"])

    def _selects_by_integers(self) -> bool:
        return False

    def _encode_main(self, x: NDArray[np.float32], kept: DeadPreActivations) -> tuple[BatchCodes, NDArray[np.bool_]]:
        wanted, last = self.k * len(x), self._bar or self._estimated_bar(x[:SAMPLE])
        low = max(MARGIN * last, SMALLEST)
        while True:
            main = self._pass("main", len(x), self._room)
            positive = self._find_candidates(x, low, main.codes, kept)
            needed, found = int(main.codes.counts.max()), int(main.codes.counts.sum())
            if needed > self._room:
                self._room = min(self.d_sae, needed + needed // 4)
            elif found < wanted and low > SMALLEST:
                low = low / 2 if low > last / 8 else SMALLEST
            else:
                break
        self._bar = self._select(main.codes, wanted)
        weight = 1 - THRESHOLD_DECAY if self.steps_done > 1 else 1.0
        self._threshold.lerp_(torch.tensor(self._bar), weight)
        return main, positive

    @torch.no_grad()
    def _estimated_bar(self, x: NDArray[np.float32]) -> float:
        hidden_pre = self._sae.hidden_pre(torch.from_numpy(x)).flatten()
        return float(hidden_pre.kthvalue(1 + len(hidden_pre) - self.k * len(x)).values)

    def _find_candidates(
        self, x: NDArray[np.float32], low: float, codes: Codes, kept: DeadPreActivations
    ) -> NDArray[np.bool_]:
        """Writes all pre-activations that reach `low`, and the number of them; returns what was positive, [d_sae]."""
        blocks = block_bounds(len(x), self.d_sae)
        buffers = self._encode_buffers(blocks[0][1])
        encoder = Encoder(self.parameters.b_dec, self._packed.floats, self.parameters.latents.b_enc)
        encoded = EncodedBatch(self._centered, codes, kept)

        def find(block: int, worker: int) -> None:
            find_candidates(x, *blocks[block], np.float32(low), encoder, encoded, buffers[worker])

        self._workers.each(len(blocks), find)
        return np.logical_or.reduce([own.positive[: self.d_sae] for own in buffers])

    def _select(self, codes: Codes, wanted: int) -> float:
        """Keeps the `wanted` largest of all candidates, of equal ones the first; returns the smallest, 0 of too few."""
        values = np.empty(codes.counts.sum(), np.float32)
        copy_values(codes, values)
        if len(values) < wanted:
            return 0.0
        bar = np.partition(values, len(values) - wanted)[len(values) - wanted]
        keep_largest(codes, bar, wanted - int((values > bar).sum()))
        return float(bar)


@kernel
def find_candidates(
    x: NDArray[np.float32],
    start: int,
    stop: int,
    low: np.float32,
    encoder: Encoder,
    encoded: EncodedBatch,
    buffers: EncodeBuffers,
) -> None:
    """Writes the pre-activations >= `low` of tokens `start` to `stop`, with latents in ascending order.

    Tokens with more than there is room for are only counted. The other arguments are those of `encode_block`.
    """
    center_rows(x, start, stop, encoder.b_dec, encoded.centered)
    gemm_rows(encoded.centered, start, stop - start, encoder.panels, encoder.b_enc, buffers.hidden)
    hidden, positive, codes = buffers.hidden, buffers.positive, encoded.codes
    values, indices, counts = codes.values, codes.indices, codes.counts
    latents, kept_hidden = encoded.kept.latents, encoded.kept.hidden
    found_values, found_indices = buffers.select.found_values, buffers.select.found_indices
    length, room = hidden.shape[1], values.shape[1]
    for token in range(start, stop):
        row = token - start
        mark_positive(hidden, row, positive)
        found = compress_at_least(hidden, row * length, length, low, found_indices, found_values)
        counts[token] = found
        for q in range(min(found, room)):
            values[token, q] = found_values[q]
            indices[token, q] = found_indices[q]
        for i in range(len(latents)):
            kept_hidden[token, i] = hidden[row, latents[i]]


@kernel
def copy_values(codes: Codes, out: NDArray[np.float32]) -> None:
    """Writes the values of all codes one after another."""
    place = 0
    for token in range(len(codes.counts)):
        for q in range(codes.counts[token]):
            out[place] = codes.values[token, q]
            place += 1


@kernel
def keep_largest(codes: Codes, bar: np.float32, equal_left: int) -> None:
    """Keeps codes above `bar` and the first `equal_left` that are equal to it."""
    values, indices, counts = codes.values, codes.indices, codes.counts
    for token in range(len(counts)):
        kept = 0
        for q in range(counts[token]):
            value = values[token, q]
            if value > bar or (value == bar and equal_left > 0):
                equal_left -= int(value == bar)
                values[token, kept] = value
                indices[token, kept] = indices[token, q]
                kept += 1
        counts[token] = kept
