"""Small TopK SAEs: a tile of tokens goes forwards and backwards in one call, while all of it is in cache."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import AuxK, TrainConfig, VariantConfig
from saelib.sae.kernels.auxk import squared_spread
from saelib.sae.kernels.columns import Batch, empty_batch, tile_buffers
from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.gather import dot
from saelib.sae.kernels.latents import StepTotals, Weights, add_scaled, move_latent
from saelib.sae.kernels.parameters import row_width
from saelib.sae.kernels.rule import OptimizerStep
from saelib.sae.kernels.small_auxk import revive_runs
from saelib.sae.kernels.small_pass import RUN, Reading, RunSums, differentiate_runs, fill_encoder, fill_run
from saelib.sae.kernels.topk_trainer import TopKTrainer
from saelib.sae.model import SAE

SMALL = 1 << 13
"""Weights of a matrix, such as 64 x 128, up to which this is faster than `KernelTrainer`."""


def is_small(sae: SAE, config: TrainConfig, variant: VariantConfig) -> bool:
    """True if `SmallKernelTrainer` is the best of the kernels for this SAE."""
    simple = variant.dead_latents.kind in ("none", "auxk") and config.precision == "float32"
    return simple and sae.d_in * sae.d_sae <= SMALL


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
        self.errors = np.zeros((tokens, width), np.float32)
        self.encoder = np.zeros((d_sae, d_in + 1), np.float32)
        self.totals = StepTotals(np.zeros((1, width), np.float32), np.zeros((1, 1)))


class SmallKernelTrainer(TopKTrainer):
    """`saelib.sae.trainer.Trainer` for small TopK SAEs, otherwise like `KernelTrainer`."""

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
        errors = scratch.errors if len(self._may_be_dead(tokens)) else scratch.errors[:0]
        fill_encoder(weights, reading, scratch.encoder)

        def differentiate(first: int, last: int, worker: int) -> None:
            own = scratch.tiles[worker]
            differentiate_runs(batch, first, last, reading, scratch.encoder, weights, sums, errors, own)

        for own in scratch.tiles:
            own.positive[:] = 0
        self._each_run(scratch, differentiate)
        untouched = self._untouched()
        positive = np.logical_or.reduce([own.positive for own in scratch.tiles])
        self._count(tokens, sums.counts.sum(0) > 0, positive)
        scale, rule = 2 / (tokens * self.settings.variance), self._rule()
        error_gradient = sums.error[:, 0].sum(0, dtype=np.float64) * scale
        scales = np.full(self.d_sae, scale, np.float32)
        self._revive(batch, reading, scratch, scales)
        apply_sums(weights, m, v, sums, scales, untouched, rule, scratch.totals)
        self._finish(error_gradient, scratch.totals, rule)

    def _revive(self, batch: Batch, reading: Reading, scratch: Scratch, scales: NDArray[np.float32]) -> None:
        """AuxK: adds the gradients of dead latents to the sums, and writes their factors to `scales` [d_sae]."""
        helpers, k = self._helpers()
        if k == 0:
            return
        sums, weights = scratch.sums, self.parameters.latents
        mean_error = sums.error[:, 0].sum(0, dtype=np.float64) / scratch.tokens
        left_over = squared_spread(scratch.errors, mean_error, self._workers)
        if not left_over > 0:
            return
        encoder = scratch.encoder[helpers]
        tiles = [tile_buffers(self.d_in, len(helpers), k) for _ in scratch.tiles]

        def revive(first: int, last: int, worker: int) -> None:
            own = tiles[worker]
            revive_runs(batch, first, last, reading, encoder, helpers, weights, scratch.errors, sums, own)

        self._each_run(scratch, revive)
        assert isinstance(self.variant.dead_latents, AuxK)
        scales[helpers] = 2 * self.variant.dead_latents.auxk_coefficient / left_over

    def _each_run(self, scratch: Scratch, do: Callable[[int, int, int], None]) -> None:
        """Calls do(first, last, worker) for all runs: one by one by several workers, all at once by a single one."""
        if len(scratch.tiles) > 1:
            self._workers.each(scratch.runs, lambda run, worker: do(run, run + 1, worker))
        else:
            do(0, scratch.runs, 0)

    def _pack(self) -> None:
        """Nothing: every step copies the encoder."""


@kernel
def apply_sums(
    weights: Weights,
    first_moments: Weights,
    second_moments: Weights,
    sums: RunSums,
    scales: NDArray[np.float32],
    untouched: NDArray[np.bool_],
    rule: OptimizerStep,
    totals: StepTotals,
) -> None:
    """Moves all latents by the sums times `scales` [d_sae]; the other arguments are those of `update_latents`."""
    totals.input_gradient[:] = 0
    totals.squared_gradient[:] = 0
    gradients = np.empty((2, sums.error.shape[2]), np.float32)
    for j in range(len(untouched)):
        if untouched[j] and not sums.counts[:, j].any():
            continue
        gradients[:] = 0
        scale, to_bias = scales[j], np.float32(0)
        for run in range(len(sums.counts)):
            add_scaled(gradients[0], scale, sums.W_dec[run, j])
            add_scaled(gradients[1], scale, sums.W_enc[run, j])
            to_bias += scale * sums.b_enc[run, j]
        add_scaled(totals.input_gradient[0], to_bias, weights.W_enc[j])
        if rule.moves_features:
            totals.squared_gradient[0, 0] += dot(gradients, 0, gradients, 0) + dot(gradients, 1, gradients, 1)
            move_latent(j, weights, first_moments, second_moments, gradients, to_bias, rule)
