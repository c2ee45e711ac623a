"""TopK SAEs of any size on a CPU: only what was selected is decoded and differentiated."""

import itertools

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import AuxK
from saelib.sae.kernels.auxk import select_helpers, squared_spread
from saelib.sae.kernels.cpu import integers_are_faster
from saelib.sae.kernels.entries import empty_codes_by_latent, group_by_latent
from saelib.sae.kernels.forward import (
    DeadPreActivations,
    EncodeBuffers,
    EncodedBatch,
    Encoder,
    encode_block,
    encode_buffers,
)
from saelib.sae.kernels.gemm import pack, pack_panels, padded
from saelib.sae.kernels.integers import empty_panels, empty_rows, round_latents
from saelib.sae.kernels.latents import LossTerm, Packed, StepTotals, update_latents
from saelib.sae.kernels.llvm.gemm import PANEL
from saelib.sae.kernels.parameters import row_width
from saelib.sae.kernels.passes import BatchCodes, block_bounds, decode_batch, empty_batch_codes
from saelib.sae.kernels.screen import WORTH_IT, IntegerEncoder, screen_batch
from saelib.sae.kernels.sums import empty_weight_gradients, sum_entries
from saelib.sae.kernels.topk_trainer import TopKTrainer
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

UPDATE_TASKS = 32
"""Runs of panels that are updated apart."""


class KernelTrainer(TopKTrainer):
    """`saelib.sae.trainer.Trainer` for TopK, with or without AuxK; by Adam or SignSGD, without clipping.

    The loss is that of `TorchTrainer`. Sums are made in a fixed order: the number of threads changes no bit.
    """

    def __init__(self, sae: SAE, settings: TrainerSettings) -> None:
        """See `TopKTrainer`."""
        super().__init__(sae, settings)
        self._encode: list[EncodeBuffers] = []
        self._passes: dict[str, BatchCodes] = {}
        self._centered = np.zeros((0, row_width(self.d_in)), np.float32)
        self._kept = np.zeros(0, np.float32)
        self._sums = empty_weight_gradients(self.d_sae, row_width(self.d_in))

    def step(self, x: Tensor) -> None:
        """One step on one batch, float32 [tokens, d_in], contiguous, on the CPU."""
        tokens = len(x)
        self.steps_done += 1
        if len(self._centered) != tokens:
            self._centered = np.zeros((tokens, row_width(self.d_in)), np.float32)
        untouched = self._untouched()
        kept = self._keep_for_auxk(tokens)
        main, positive = self._encode_main(x.numpy(), kept)
        output_gradient, error_sum = self._decode_main(main)
        group_by_latent(main.codes, main.code_grads, main.entries, self._workers)
        self._count(tokens, np.diff(main.entries.starts) > 0, positive)
        scale = self._loss_scale(tokens)
        main_term = LossTerm(main.entries, np.float32(scale))
        auxk_term = self._revive(kept, main, error_sum / tokens)
        self._sum_main(main)
        self._update(main_term, auxk_term, untouched, output_gradient * scale)

    def _pack(self) -> None:
        W_enc = self.parameters.latents.W_enc
        self._floats = np.zeros((0, self.d_in, PANEL), np.float32)
        if self._selects_by_integers():
            self._packed = Packed(self._floats, round_latents(W_enc))
        else:
            self._packed = Packed(pack(W_enc, self.d_in), empty_panels(0, W_enc.shape[1]))

    def _selects_by_integers(self) -> bool:
        screened = self.config.selection == "screened" and integers_are_faster()
        return screened and self.d_sae >= WORTH_IT * self.k

    def _pass(self, name: str, tokens: int, k: int) -> BatchCodes:
        """Arrays for a pass, with the contents of the last batch of this size."""
        if name not in self._passes or self._passes[name].codes.values.shape != (tokens, k):
            self._passes[name] = empty_batch_codes(tokens, row_width(self.d_in), k, self.d_sae)
        return self._passes[name]

    def _keep_for_auxk(self, tokens: int) -> DeadPreActivations:
        """Room for the pre-activations of all latents that will count as dead unless they fire in this batch."""
        may_be_dead = self._may_be_dead(tokens)
        size = tokens * len(may_be_dead)
        if len(self._kept) < size:
            self._kept = np.empty(size, np.float32)
        return DeadPreActivations(may_be_dead, self._kept[:size].reshape(tokens, -1 if size else 0))

    def _encode_buffers(self, rows: int) -> list[EncodeBuffers]:
        """Buffers of each thread, for blocks of `rows` tokens, with nothing positive so far."""
        if len(self._encode) != self.threads or len(self._encode[0].hidden) < rows:
            self._encode = [encode_buffers(rows, self.d_sae, self.k) for _ in range(self.threads)]
        for buffers in self._encode:
            buffers.positive[:] = 0
        return self._encode

    def _encode_main(self, x: NDArray[np.float32], kept: DeadPreActivations) -> tuple[BatchCodes, NDArray[np.bool_]]:
        """Writes the centered batch and the pre-activations to keep; returns codes, and what was positive, [d_sae]."""
        main = self._pass("main", len(x), self.k)
        codes, blocks = main.codes, block_bounds(len(x), self.d_sae)
        buffers = self._encode_buffers(blocks[0][1])
        latents, b_dec, centered = self.parameters.latents, self.parameters.b_dec, self._centered
        if not len(self._packed.floats) and not len(kept.latents):
            rounded = IntegerEncoder(b_dec, self._packed.integers, latents.b_enc)
            blocks = screen_batch(x, blocks, rounded, latents.W_enc, centered, codes, buffers, self._workers)
        encoder = Encoder(b_dec, self._float_panels() if blocks else self._floats, latents.b_enc)
        encoded = EncodedBatch(centered, codes, kept)

        def encode(block: int, worker: int) -> None:
            encode_block(x, *blocks[block], encoder, encoded, buffers[worker])

        self._workers.each(len(blocks), encode)
        return main, np.logical_or.reduce([own.positive[: self.d_sae] for own in buffers])

    def _float_panels(self) -> NDArray[np.float32]:
        """W_enc packed in float32, as it is now."""
        if len(self._packed.floats):
            return self._packed.floats
        panels = padded(self.d_sae) // PANEL
        if not len(self._floats):
            self._floats = np.zeros((panels, self.d_in, PANEL), np.float32)
        W_enc, tasks = self.parameters.latents.W_enc, _tasks(panels)
        self._workers.each(len(tasks), lambda i, _: pack_panels(W_enc, *tasks[i], self._floats))
        return self._floats

    def _loss_scale(self, tokens: int) -> float:
        """Factor of half the squared error in the loss."""
        return 2 / (tokens * self.settings.variance)

    def _decode_main(self, main: BatchCodes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Writes errors and code_grads of the batch; returns what b_dec's gradient sums, and the sum of the errors."""
        error_sum = decode_batch(self._centered, -1, self.parameters.latents.W_dec, main, self._workers)
        return error_sum, error_sum

    def _sum_main(self, main: BatchCodes) -> None:
        """Sums the gradients of the reconstruction."""
        self._sum_entries(main)

    def _revive(self, kept: DeadPreActivations, main: BatchCodes, mean_error: NDArray[np.float64]) -> LossTerm:
        """AuxK: dead latents fit the residual, the opposite of the error; `mean_error` [width] is over tokens."""
        dead_latents, (helpers, k) = self.variant.dead_latents, self._helpers()
        nothing = LossTerm(empty_codes_by_latent(self.d_sae, 0), np.float32(0))
        if k == 0 or not isinstance(dead_latents, AuxK):
            return nothing
        left_over = squared_spread(main.error, mean_error, self._workers)
        if not left_over > 0:
            return nothing
        columns = np.searchsorted(kept.latents, helpers).astype(np.int32)
        part = self._pass("dead_latents", len(main.error), k)
        select_helpers(kept, columns, part.codes, self._workers)
        decode_batch(main.error, 1, self.parameters.latents.W_dec, part, self._workers)
        group_by_latent(part.codes, part.code_grads, part.entries, self._workers)
        self._sum_entries(part)
        return LossTerm(part.entries, np.float32(2 * dead_latents.auxk_coefficient / left_over))

    def _sum_entries(self, part: BatchCodes) -> None:
        """Sums the gradients of the latents that may move."""
        if self.variant.frozen != "features":
            sum_entries(part.entries, part.error, self._centered, self._sums, self._workers)

    def _update(
        self,
        main: LossTerm,
        dead_latents: LossTerm,
        untouched: NDArray[np.bool_],
        error_gradient: NDArray[np.float64],
    ) -> None:
        """A step of the optimizer; `error_gradient` [width] is what b_dec's gradient receives through the output."""
        rule = self._rule()
        tasks = _tasks(padded(self.d_sae) // PANEL)
        count, width = len(tasks), len(self.parameters.b_dec)
        totals = StepTotals(np.zeros((count, width), np.float32), np.zeros((count, 1)))
        gradients = np.empty((self.threads, 2, width), np.float32)
        rows = [empty_rows(PANEL, width) for _ in range(self.threads)]
        weights, m, v = self.parameters, self.first_moments, self.second_moments

        def run(i: int, worker: int) -> None:
            update_latents(
                *tasks[i],
                weights.latents,
                m.latents,
                v.latents,
                self._packed,
                self._sums,
                main,
                dead_latents,
                untouched,
                rule,
                gradients[worker],
                rows[worker],
                StepTotals(totals.input_gradient[i], totals.squared_gradient[i]),
            )

        self._workers.each(count, run)
        self._finish(error_gradient, totals, rule)


def _tasks(panels: int) -> list[tuple[int, int]]:
    """First panel of each run that is a task, and the one behind its last."""
    bounds = np.linspace(0, panels, min(UPDATE_TASKS, panels) + 1).astype(int).tolist()
    return list(itertools.pairwise(bounds))
