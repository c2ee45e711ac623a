"""Small TopK SAEs: a tile of tokens goes forwards and backwards in one call, while all of it is in cache."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.kernels.columns import (
    TILE,
    Batch,
    TileBuffers,
    empty_batch,
    encode_tile,
    fill_batch,
    tile_buffers,
)
from saelib.sae.kernels.compiled import inner, kernel
from saelib.sae.kernels.gather import dot
from saelib.sae.kernels.latents import StepTotals, Weights, add_scaled, move_latent
from saelib.sae.kernels.llvm.tokens import PIECE, decode_piece, decode_vector, scatter_piece, scatter_vector
from saelib.sae.kernels.llvm.vector import LANES
from saelib.sae.kernels.parameters import row_width
from saelib.sae.kernels.rule import OptimizerStep
from saelib.sae.kernels.topk_trainer import TopKTrainer
from saelib.sae.model import SAE

SMALL = 1 << 13
"""Weights of a matrix, such as 64 x 128, up to which this is faster than `KernelTrainer`."""
RUN = 1024
"""Tokens of a run, whose sums are made by one thread; a multiple of TILE."""
COLUMNS = PIECE * LANES


def is_small(sae: SAE, config: TrainConfig, variant: VariantConfig) -> bool:
    """True if `SmallKernelTrainer` is the best of the kernels for this SAE."""
    simple = variant.dead_latents.kind == "none" and config.precision == "float32"
    return simple and sae.d_in * sae.d_sae <= SMALL


class RunSums(NamedTuple):
    """Sums over each run of tokens. Gradients are without the factor of the loss."""

    W_enc: NDArray[np.float32]
    """[runs, d_sae, width]"""
    W_dec: NDArray[np.float32]
    """The same."""
    b_enc: NDArray[np.float32]
    """[runs, d_sae]"""
    error: NDArray[np.float32]
    """[runs, 2, width]; of errors, and of their squares."""
    bars: NDArray[np.float64]
    """[runs]; of the k-th largest positive pre-activation of each token."""
    counts: NDArray[np.int64]
    """[runs, d_sae]; of tokens that selected a latent."""


class Reading(NamedTuple):
    """The way an SAE reads a batch: scale * row + center is a token less b_dec."""

    scale: np.float32
    center: NDArray[np.float32]
    """[width]"""


class Scratch:
    """Memory of a step of one SAE, for any number of SAEs of the same size."""

    def __init__(self, d_in: int, d_sae: int, k: int, tokens: int, threads: int) -> None:
        """`tokens`: of a batch."""
        self.tokens, self.runs = tokens, -(-tokens // RUN)
        width = row_width(d_in)
        W_enc, W_dec = np.zeros((2, self.runs, d_sae, width), np.float32)
        b_enc, counts = np.zeros((self.runs, d_sae), np.float32), np.zeros((self.runs, d_sae), np.int64)
        error, bars = np.zeros((self.runs, 2, width), np.float32), np.zeros(self.runs)
        self.sums = RunSums(W_enc, W_dec, b_enc, error, bars, counts)
        self.tiles = [tile_buffers(d_in, d_sae, k) for _ in range(threads)]
        self.encoder = np.zeros((d_sae, d_in + 1), np.float32)
        self.totals = StepTotals(np.zeros((1, width), np.float32), np.zeros((1, 1)))


class SmallKernelTrainer(TopKTrainer):
    """`saelib.sae.trainer.Trainer` for small TopK SAEs without dead_latents, otherwise like `KernelTrainer`."""

    _scratch: Scratch | None = None
    _batch: Batch | None = None

    def step(self, x: Tensor) -> None:
        """One step on one batch, float32 [tokens, d_in], contiguous, on the CPU."""
        tokens = len(x)
        if self._batch is None or len(self._batch.rows) != tokens:
            self._batch = empty_batch(tokens, self.d_in)
        if self._scratch is None or (self._scratch.tokens, len(self._scratch.tiles)) != (tokens, self.threads):
            self._scratch = Scratch(self.d_in, self.d_sae, self.k, tokens, self.threads)
        batch, values, b_dec = self._batch, x.numpy(), self.parameters.b_dec
        self._workers.each(self._scratch.runs, lambda run, _: fill_run(values, b_dec, run, batch))
        self.step_on(batch, Reading(np.float32(1), np.zeros_like(b_dec)), self._scratch)

    def step_on(self, batch: Batch, reading: Reading, scratch: Scratch) -> None:
        """One step on what the SAE reads of a batch."""
        tokens, sums = scratch.tokens, scratch.sums
        self.steps_done += 1
        weights, m, v = self.parameters.latents, self.first_moments.latents, self.second_moments.latents
        fill_encoder(weights, reading, scratch.encoder)

        def differentiate(run: int, worker: int) -> None:
            differentiate_runs(batch, run, run + 1, reading, scratch.encoder, weights, sums, scratch.tiles[worker])

        for own in scratch.tiles:
            own.positive[:] = 0
        if len(scratch.tiles) > 1:
            self._workers.each(scratch.runs, differentiate)
        else:
            differentiate_runs(batch, 0, scratch.runs, reading, scratch.encoder, weights, sums, scratch.tiles[0])
        untouched = self._untouched()
        positive = np.logical_or.reduce([own.positive for own in scratch.tiles])
        self._count(tokens, sums.counts.sum(0) > 0, positive)
        scale, rule = 2 / (tokens * self.settings.variance), self._rule()
        apply_sums(weights, m, v, sums, np.float32(scale), untouched, rule, scratch.totals)
        self._finish(sums.error[:, 0].sum(0, dtype=np.float64) * scale, scratch.totals, rule)

    def _pack(self) -> None:
        """Nothing: every step copies the encoder."""


@kernel
def fill_run(x: NDArray[np.float32], center: NDArray[np.float32], run: int, batch: Batch) -> None:
    """Write the tokens of a run of x - center to a batch; x [tokens, d_in], center [at least d_in]."""
    fill_batch(x, center, run * RUN, min((run + 1) * RUN, len(x)), batch)


@kernel
def fill_encoder(weights: Weights, reading: Reading, encoder: NDArray[np.float32]) -> None:
    """Write weights and biases that act on a batch as the SAE's act on what it reads, [d_sae, d_in + 1].

    So what the center adds is added once, in float64, and not for each token.
    """
    W_enc, b_enc = weights.W_enc, weights.b_enc
    scale, center = reading
    d_sae, d_in = encoder.shape[0], encoder.shape[1] - 1
    for j in range(d_sae):
        bias = np.float64(b_enc[j])
        for d in range(d_in):
            bias += np.float64(W_enc[j, d]) * np.float64(center[d])
            encoder[j, d] = scale * W_enc[j, d]
        encoder[j, d_in] = bias


@kernel
def differentiate_runs(
    batch: Batch,
    first: int,
    last: int,
    reading: Reading,
    encoder: NDArray[np.float32],
    weights: Weights,
    sums: RunSums,
    buffers: TileBuffers,
) -> None:
    """Write the sums of runs `first` to `last` of a batch."""
    rows, tiles = batch
    for run in range(first, last):
        sums.W_enc[run] = 0
        sums.W_dec[run] = 0
        sums.b_enc[run] = 0
        sums.error[run] = 0
        sums.bars[run] = 0
        sums.counts[run] = 0
        for start in range(run * RUN, min((run + 1) * RUN, len(rows)), TILE):
            tokens = min(TILE, len(rows) - start)
            sums.bars[run] += encode_tile(tiles, start // TILE, tokens, encoder, buffers)
            for t in range(tokens):
                _differentiate_token(rows, start + t, reading, weights.W_dec, run, t, sums, buffers)


@inner
def _differentiate_token(rows, row, reading, W_dec, run, t, sums, buffers):
    """Add token `t` of a tile to the sums of its run; `row` is its row of the batch."""
    values, indices, counts = buffers.codes
    code_grads, token, totals = buffers.code_grads, buffers.token, sums.error[run]
    width, d_sae, count, start = rows.shape[1], len(W_dec), counts[t], t * values.shape[1]
    scale, center = reading
    for q in range(count):
        code_grads[t, q] = 0
    column = 0
    while column + COLUMNS <= width:
        decode_piece(rows, row, scale, center, values, indices, start, count, W_dec, code_grads, token, totals, column)
        column += COLUMNS
    while column < width:
        decode_vector(rows, row, scale, center, values, indices, start, count, W_dec, code_grads, token, totals, column)
        column += LANES
    first, column = run * d_sae * width, 0
    while column + COLUMNS <= width:
        scatter_piece(values, code_grads, indices, start, count, token, sums.W_dec, sums.W_enc, first, column)
        column += COLUMNS
    while column < width:
        scatter_vector(values, code_grads, indices, start, count, token, sums.W_dec, sums.W_enc, first, column)
        column += LANES
    for q in range(count):
        sums.b_enc[run, indices[t, q]] += code_grads[t, q]
        sums.counts[run, indices[t, q]] += 1


@kernel
def apply_sums(
    weights: Weights,
    first_moments: Weights,
    second_moments: Weights,
    sums: RunSums,
    scale: np.float32,
    untouched: NDArray[np.bool_],
    rule: OptimizerStep,
    totals: StepTotals,
) -> None:
    """Move all latents by the sums times `scale`; the other arguments are those of `update_latents`."""
    totals.input_gradient[:] = 0
    totals.squared_gradient[:] = 0
    gradients = np.empty((2, sums.error.shape[2]), np.float32)
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
