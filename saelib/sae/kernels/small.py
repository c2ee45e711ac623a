"""Small TopK SAEs: a run of tokens goes forwards and backwards in one call, while all of it is in cache."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.kernels.compiled import inner_sum, kernel
from saelib.sae.kernels.entries import CodesByLatent, count_entries, place_entries
from saelib.sae.kernels.forward import (
    DeadPreActivations,
    EncodeBuffers,
    EncodedBatch,
    Encoder,
    decode_block,
    encode_block,
    encode_buffers,
    keep_nothing,
)
from saelib.sae.kernels.gather import dot, sum_row_pairs
from saelib.sae.kernels.gemm import pack, pack_panels
from saelib.sae.kernels.latents import StepTotals, Weights, add_scaled, move_latent
from saelib.sae.kernels.llvm.gemm import TALL
from saelib.sae.kernels.parameters import row_width
from saelib.sae.kernels.passes import BatchCodes, empty_batch_codes
from saelib.sae.kernels.rule import OptimizerStep
from saelib.sae.kernels.topk_trainer import TopKTrainer
from saelib.sae.model import SAE

SMALL = 1 << 13
"""Weights of a matrix, such as 64 x 128, up to which this is faster than `KernelTrainer`."""
RUN = 1024
"""Tokens of a run, at most."""


def is_small(sae: SAE, config: TrainConfig, variant: VariantConfig) -> bool:
    """True if `SmallKernelTrainer` is the best of the kernels for this SAE."""
    simple = variant.dead_latents.kind == "none" and config.precision == "float32"
    return simple and sae.d_in * sae.d_sae <= SMALL


class RunGradients(NamedTuple):
    """Gradients, summed over each run of tokens; without the factor of the loss."""

    W_enc: NDArray[np.float32]
    """[runs, d_sae, width]"""
    W_dec: NDArray[np.float32]
    """The same."""
    b_enc: NDArray[np.float32]
    """[runs, d_sae]"""
    error: NDArray[np.float32]
    """[runs, width]"""
    counts: NDArray[np.int64]
    """[runs, d_sae]; of tokens that selected a latent."""


class Buffers(NamedTuple):
    """Buffers of one worker."""

    centered: NDArray[np.float32]
    """[RUN, width]"""
    main: BatchCodes
    encode: EncodeBuffers
    kept: DeadPreActivations
    """Holds nothing: no pre-activations are needed later."""


class SmallKernelTrainer(TopKTrainer):
    """`saelib.sae.trainer.Trainer` for small TopK SAEs without dead_latents, otherwise like `KernelTrainer`."""

    _buffers: list[Buffers] | None = None

    def step(self, x: Tensor) -> None:
        """One step on one batch, float32 [tokens, d_in], contiguous, on the CPU."""
        tokens = len(x)
        self.steps_done += 1
        runs = _runs(tokens)
        sums, untouched = self._empty_sums(len(runs)), self._untouched()
        positive = self._differentiate(x.numpy(), runs, sums)
        self._count(tokens, np.logical_or.reduce(sums.counts > 0), positive)
        scale, rule = 2 / (tokens * self.settings.variance), self._rule()
        totals = StepTotals(np.zeros((1, sums.error.shape[1]), np.float32), np.zeros((1, 1)))
        weights, m, v = self.parameters.latents, self.first_moments.latents, self.second_moments.latents
        apply_sums(weights, m, v, self._panels, sums, np.float32(scale), untouched, rule, totals)
        self._finish(sums.error.sum(0, dtype=np.float64) * scale, totals, rule)

    def _pack(self) -> None:
        self._panels = pack(self.parameters.latents.W_enc, self.d_in)

    def _differentiate(
        self, x: NDArray[np.float32], runs: list[tuple[int, int]], sums: RunGradients
    ) -> NDArray[np.bool_]:
        """Sums of each run; returns which latents were positive somewhere, [d_sae]."""
        if self._buffers is None or len(self._buffers) != self.threads:
            self._buffers = [self._empty_buffers() for _ in range(self.threads)]
        buffers, weights, b_dec = self._buffers, self.parameters.latents, self.parameters.b_dec

        def differentiate(run: int, worker: int) -> None:
            differentiate_run(x[slice(*runs[run])], weights, b_dec, self._panels, run, sums, buffers[worker])

        for own in buffers:
            own.encode.positive[:] = 0
        self._workers.each(len(runs), differentiate)
        return np.logical_or.reduce([own.encode.positive[: self.d_sae] for own in buffers])

    def _empty_buffers(self) -> Buffers:
        rows, width = _round_up(RUN), row_width(self.d_in)
        main = empty_batch_codes(rows, width, self.k, self.d_sae)
        encode = encode_buffers(rows, self.d_sae, self.k)
        return Buffers(np.zeros((rows, width), np.float32), main, encode, keep_nothing(rows))

    def _empty_sums(self, runs: int) -> RunGradients:
        shape = (runs, self.d_sae, row_width(self.d_in))
        W_enc, W_dec = np.empty(shape, np.float32), np.empty(shape, np.float32)
        b_enc, counts = np.empty(shape[:2], np.float32), np.empty(shape[:2], np.int64)
        return RunGradients(W_enc, W_dec, b_enc, np.empty((runs, shape[2]), np.float32), counts)


def _runs(tokens: int) -> list[tuple[int, int]]:
    """First token of each run, and the one behind its last: of a length alike, at most RUN, a multiple of TALL."""
    rows = _round_up(-(-tokens // -(-tokens // RUN)))
    return [(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def _round_up(rows: int) -> int:
    return -(-rows // TALL) * TALL


@kernel
def differentiate_run(
    x: NDArray[np.float32],
    weights: Weights,
    b_dec: NDArray[np.float32],
    panels: NDArray[np.float32],
    run: int,
    sums: RunGradients,
    buffers: Buffers,
) -> None:
    """Write the sums of a run of tokens, x [tokens, d_in]."""
    tokens, (centered, main, encode, kept) = len(x), buffers
    codes, entries = main.codes, main.entries
    encoder, encoded = Encoder(b_dec, panels, weights.b_enc), EncodedBatch(centered, codes, kept)
    encode_block(x, 0, tokens, encoder, encoded, encode)
    decode_block(
        centered, np.float32(-1), 0, tokens, weights.W_dec, codes, main.error, main.code_grads, sums.error[run]
    )
    counts = sums.counts[run]
    counts[:] = 0
    count_entries(codes, 0, tokens, counts)
    entries.starts[1:] = np.cumsum(counts)
    place_entries(codes, main.code_grads, 0, tokens, entries.starts[:-1].copy(), entries)
    for j in range(len(counts)):
        start, stop = entries.starts[j], entries.starts[j + 1]
        sum_row_pairs(sums.W_dec[run, j], sums.W_enc[run, j], entries, start, stop, main.error, centered)
        sums.b_enc[run, j] = _sum_code_grads(entries, start, stop)


@inner_sum
def _sum_code_grads(entries: CodesByLatent, start, stop):
    total = np.float32(0)
    for q in range(start, stop):
        total += entries.code_grads[q]
    return total


@kernel
def apply_sums(
    weights: Weights,
    first_moments: Weights,
    second_moments: Weights,
    panels: NDArray[np.float32],
    sums: RunGradients,
    scale: np.float32,
    untouched: NDArray[np.bool_],
    rule: OptimizerStep,
    totals: StepTotals,
) -> None:
    """Move all latents by the sums times `scale`; the other arguments are those of `update_latents`."""
    gradients = np.empty((2, sums.error.shape[1]), np.float32)
    for j in range(len(untouched)):
        if untouched[j] and not sums.counts[:, j].any():
            continue
        gradients[:] = 0
        to_bias = np.float32(0)
        for run in range(len(sums.counts)):
            add_scaled(gradients[0], scale, sums.W_dec[run, j])
            add_scaled(gradients[1], scale, sums.W_enc[run, j])
            to_bias += scale * sums.b_enc[run, j]
        add_scaled(totals.input_gradient[0], to_bias, weights.W_enc[j])
        if rule.moves_features:
            totals.squared_gradient[0, 0] += dot(gradients, 0, gradients, 0) + dot(gradients, 1, gradients, 1)
            move_latent(j, weights, first_moments, second_moments, gradients, to_bias, rule)
    pack_panels(weights.W_enc, 0, len(panels), panels)
