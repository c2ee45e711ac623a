"""TopK SAEs of any size on a CPU: only what was selected is decoded and differentiated."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import AuxK, TrainConfig, VariantConfig
from saelib.sae.kernels.auxk import select_helpers, squared_spread
from saelib.sae.kernels.base import TopKTrainer
from saelib.sae.kernels.bf16 import CHECK_EVERY, TwoStageSelection
from saelib.sae.kernels.entries import empty_entries, group_by_latent
from saelib.sae.kernels.forward import Codes, EncodeBuffers, Kept, encode_block, encode_buffers
from saelib.sae.kernels.latents import Part, Totals, update_latents
from saelib.sae.kernels.passes import Pass, block_bounds, decode_batch, empty_pass
from saelib.sae.kernels.state import row_width
from saelib.sae.model import SAE

UPDATE_TASKS = 32
"""Runs of panels that are updated apart."""


class KernelTrainer(TopKTrainer):
    """`saelib.sae.trainer.Trainer` for TopK, with or without AuxK; by Adam or SignSGD, without clipping.

    The loss is that of `TorchTrainer`. With `precision="bfloat16"`, which AuxK does without, candidates are selected in
    bfloat16 and decided between in float32. Sums are made in a fixed order: the number of threads changes no bit.
    """

    def __init__(
        self,
        sae: SAE,
        config: TrainConfig,
        variant: VariantConfig,
        *,
        learning_rate: float,
        variance: float,
        threads: int = 1,
    ) -> None:
        """See `TopKTrainer`."""
        super().__init__(sae, config, variant, learning_rate=learning_rate, variance=variance, threads=threads)
        two_stage = config.precision == "bfloat16" and not isinstance(variant.revival, AuxK)
        self._two_stage = TwoStageSelection(self.parameters, self.k) if two_stage else None
        self._encode: list[EncodeBuffers] = []
        self._passes: dict[str, Pass] = {}
        self._centred = np.zeros((0, row_width(self.d_in)), np.float32)
        self._kept = np.zeros(0, np.float32)

    def step(self, x: Tensor) -> None:
        """One step on one batch, float32 [tokens, d_in], contiguous, on the CPU."""
        tokens = len(x)
        self.steps_done += 1
        main = self._pass("main", tokens, self.k)
        if len(self._centred) != tokens:
            self._centred = np.zeros_like(main.error)
        resting = self._resting()
        kept = self._keep_for_auxk(tokens)
        positive = self._select(x.numpy(), main.codes, kept)
        error_sum = decode_batch(self._centred, -1, self.parameters.latents.W_dec, main, self._workers)
        group_by_latent(main.codes, main.slopes, main.entries, self._workers)
        self._count(tokens, np.diff(main.entries.starts) > 0, positive)
        scale = 2 / (tokens * self.variance)
        main_part = Part(main.error, main.entries, np.float32(scale))
        revival_part = self._revive(kept, main, error_sum / tokens)
        self._update(main_part, revival_part, resting, error_sum * scale)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything the next step depends on."""
        trusted = {} if self._two_stage is None else {"bfloat16_trusted": torch.tensor(self._two_stage.trusted)}
        return super().state_dict() | trusted

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`, bit for bit."""
        super().load_state_dict(state)
        if self._two_stage is not None:
            self._two_stage.trusted = bool(state["bfloat16_trusted"])

    def _pass(self, name: str, tokens: int, k: int) -> Pass:
        """Arrays for a pass, with the contents of the last batch of this size."""
        if name not in self._passes or self._passes[name].codes.values.shape != (tokens, k):
            self._passes[name] = empty_pass(tokens, row_width(self.d_in), k, self.d_sae)
        return self._passes[name]

    def _keep_for_auxk(self, tokens: int) -> Kept:
        """Room for the pre-activations of all latents that will count as dead unless they fire in this batch."""
        may_be_dead = np.zeros(0, np.int32)
        if isinstance(self.variant.revival, AuxK):
            may_be_dead = np.flatnonzero(self._silent + tokens >= self.config.dead_after_examples).astype(np.int32)
        size = tokens * len(may_be_dead)
        if len(self._kept) < size:
            self._kept = np.empty(size, np.float32)
        return Kept(may_be_dead, self._kept[:size].reshape(tokens, -1 if size else 0))

    def _select(self, x: NDArray[np.float32], codes: Codes, kept: Kept) -> NDArray[np.bool_]:
        """Write the centred batch, its codes and the pre-activations to keep; returns what was positive, [d_sae]."""
        rough = self._two_stage
        if rough is not None and rough.trusted:
            np.subtract(x, self.parameters.b_dec[: self.d_in], out=self._centred[:, : self.d_in])
            rough.encode(self._centred, codes, self._workers)
            if self.steps_done % CHECK_EVERY == 1:
                rough.check(x, codes, self._panels)
            if rough.trusted:
                return rough.buffers.positive[: self.d_sae].astype(np.bool_)
        self._encode_batch(x, codes, kept)
        return np.logical_or.reduce([buffers.positive[: self.d_sae] for buffers in self._encode])

    def _encode_batch(self, x: NDArray[np.float32], codes: Codes, kept: Kept) -> None:
        """The selection in float32."""
        blocks = block_bounds(len(x), self.d_sae)
        rows = blocks[0][1]
        if len(self._encode) != self.threads or len(self._encode[0].hidden) < rows:
            self._encode = [encode_buffers(rows, self.d_sae, self.k) for _ in range(self.threads)]
        bias, b_dec = self.parameters.latents.b_enc, self.parameters.b_dec

        def encode(block: int, worker: int) -> None:
            own = self._encode[worker]
            encode_block(x, *blocks[block], b_dec, self._panels, bias, self._centred, codes, kept, own)

        for buffers in self._encode:
            buffers.positive[:] = 0
        self._workers.each(len(blocks), encode)

    def _revive(self, kept: Kept, main: Pass, mean_error: NDArray[np.float64]) -> Part:
        """AuxK: dead latents fit the residual, the opposite of the error; `mean_error` [width] is over tokens."""
        tokens = len(main.error)
        nothing = Part(main.error[:0], empty_entries(self.d_sae, 0), np.float32(0))
        revival = self.variant.revival
        if not isinstance(revival, AuxK):
            return nothing
        dead = self._silent >= self.config.dead_after_examples
        useful = dead & (self._negative == 0)  # those that are positive nowhere would add nothing
        columns = np.flatnonzero(useful[kept.latents]).astype(np.int32)
        k = min(self.d_in // 2 if revival.k is None else revival.k, len(columns))
        left_over = squared_spread(main.error, mean_error, self._workers)
        if k == 0 or not left_over > 0:
            return nothing
        part = self._pass("revival", tokens, k)
        select_helpers(kept, columns, part.codes, self._workers)
        decode_batch(main.error, 1, self.parameters.latents.W_dec, part, self._workers)
        group_by_latent(part.codes, part.slopes, part.entries, self._workers)
        return Part(part.error, part.entries, np.float32(2 * revival.coefficient / left_over))

    def _update(
        self,
        main: Part,
        revival: Part,
        resting: NDArray[np.bool_],
        error_gradient: NDArray[np.float64],
    ) -> None:
        """A step of the optimiser; `error_gradient` [width] is what b_dec's gradient receives through the output."""
        rule = self._rule()
        tasks = np.linspace(0, len(self._panels), min(UPDATE_TASKS, len(self._panels)) + 1).astype(int).tolist()
        count, width = len(tasks) - 1, len(self.parameters.b_dec)
        totals = Totals(np.zeros((count, width), np.float32), np.zeros((count, 1)))
        gradients = np.empty((self.threads, 2, width), np.float32)
        weights, m, v = self.parameters, self.first_moments, self.second_moments

        def run(i: int, worker: int) -> None:
            update_latents(
                tasks[i],
                tasks[i + 1],
                weights.latents,
                m.latents,
                v.latents,
                self._panels,
                self._centred,
                main,
                revival,
                resting,
                rule,
                gradients[worker],
                Totals(totals.input_gradient[i], totals.squared_gradient[i]),
            )

        self._workers.each(count, run)
        self._finish(error_gradient, totals, rule)
