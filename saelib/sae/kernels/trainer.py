"""TopK SAEs of any size on a CPU: only what was selected is decoded and differentiated."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import AuxK, TrainConfig, VariantConfig
from saelib.sae.kernels.auxk import select_helpers, spread
from saelib.sae.kernels.entries import Entries, empty_entries, group_by_latent
from saelib.sae.kernels.forward import (
    Codes,
    EncodeBuffers,
    Kept,
    center_rows,
    decode_block,
    empty_codes,
    encode_block,
    encode_buffers,
)
from saelib.sae.kernels.gemm import BLOCK_ROWS, pack
from saelib.sae.kernels.latents import Part, Totals, update_latents, update_vector
from saelib.sae.kernels.rule import rule_for
from saelib.sae.kernels.select import select_buffers
from saelib.sae.kernels.state import Parameters, row_width, sae_of
from saelib.sae.kernels.threads import Workers
from saelib.sae.model import SAE

UPDATE_TASKS = 32
"""Runs of panels that are updated apart."""


class Pass(NamedTuple):
    """What is known of a batch for one part of the loss."""

    codes: Codes
    error: NDArray[np.float32]
    """[tokens, width]"""
    slopes: NDArray[np.float32]
    """[tokens, k]"""
    entries: Entries

    @classmethod
    def empty(cls, tokens: int, width: int, k: int, d_sae: int) -> "Pass":
        """With nothing selected."""
        error, slopes = np.zeros((tokens, width), np.float32), np.zeros((tokens, k), np.float32)
        return cls(empty_codes(tokens, k), error, slopes, empty_entries(d_sae, tokens * k))


class KernelTrainer:
    """`saelib.sae.trainer.Trainer` for TopK, with or without AuxK; by Adam or SignSGD, without clipping.

    The loss is that of `TorchTrainer`. Sums are made in a fixed order: the number of threads changes no bit.
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
        """Take a copy of `sae`; `variance` is that of the data, by which the squared error is divided."""
        assert sae.k is not None
        self.config, self.variant = config, variant
        self.learning_rate, self.variance = learning_rate, variance
        self.steps_done = self.examples = 0
        self.d_in, self.d_sae, self.k = sae.d_in, sae.d_sae, sae.k
        self.parameters = Parameters(self.d_in, self.d_sae)
        self.parameters.load(sae.state_dict())
        self.parameters.latents.b_enc[self.d_sae :] = -np.inf  # so that padding is never selected
        self._has_moments = variant.optimizer.kind == "adam"
        moments = (self.d_in, self.d_sae) if self._has_moments else (1, 1)
        self.first_moments, self.second_moments = Parameters(*moments), Parameters(*moments)
        self._silent, self._negative = np.zeros(self.d_sae, np.int64), np.zeros(self.d_sae, np.int64)
        self.silent_for, self.negative_for = torch.from_numpy(self._silent), torch.from_numpy(self._negative)
        self._panels = pack(self.parameters.latents.W_enc, self.d_in)
        self._sae = sae_of(self.parameters, self.k)
        self._norms = {"W": 0.0, "b_dec": 0.0}
        self._workers = Workers(threads)
        self._encode: list[EncodeBuffers] = [encode_buffers(self.d_sae, self.k) for _ in range(threads)]
        self._gradients = np.zeros((threads, 2, row_width(self.d_in)), np.float32)
        self._batch: tuple[NDArray[np.float32], Pass] | None = None

    @property
    def sae(self) -> SAE:
        """The parameters as they are now; not to be changed, and valid until the next step."""
        return self._sae

    def step(self, x: Tensor) -> None:
        """One step on one batch, float32 [tokens, d_in], contiguous, on the CPU."""
        tokens = len(x)
        self.steps_done += 1
        centred, main = self._buffers(tokens)
        never_moved = self._never_moved()
        kept = self._keep_for_auxk(tokens)
        self._encode_batch(x.numpy(), centred, main.codes, kept)
        error_sum = self._decode_batch(centred, -1, main)
        group_by_latent(main.codes, main.slopes, main.entries, self._workers)
        self._count(tokens, main.entries)
        scale = 2 / (tokens * self.variance)
        main_part = Part(main.error, main.entries, np.float32(scale))
        revival_part = self._revive(kept, main, error_sum / tokens)
        self._update(centred, main_part, revival_part, never_moved, error_sum * scale)

    def gradient_norms(self) -> dict[str, float]:
        """L2 norms of the last step's gradients, before projection: `W` (both matrices) and `b_dec`."""
        return dict(self._norms)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything the next step depends on."""
        state = dict(self.parameters.copies())
        if self._has_moments:
            state |= dict(self.first_moments.copies("m.")) | dict(self.second_moments.copies("v."))
        counters = {"steps_done": torch.tensor(self.steps_done), "examples": torch.tensor(self.examples)}
        return state | counters | {"silent_for": self.silent_for.clone(), "negative_for": self.negative_for.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`, bit for bit."""
        self.parameters.load(state)
        if self._has_moments:
            self.first_moments.load(state, "m.")
            self.second_moments.load(state, "v.")
        self.silent_for.copy_(state["silent_for"])
        self.negative_for.copy_(state["negative_for"])
        self.steps_done, self.examples = int(state["steps_done"]), int(state["examples"])
        self._panels = pack(self.parameters.latents.W_enc, self.d_in)

    def _buffers(self, tokens: int) -> tuple[NDArray[np.float32], Pass]:
        """Centred batch and main pass; their contents are those of the last batch of this size."""
        if self._batch is None or len(self._batch[0]) != tokens:
            width = row_width(self.d_in)
            empty = Pass.empty(tokens, width, self.k, self.d_sae)
            self._batch = np.zeros((tokens, width), np.float32), empty
        return self._batch

    def _never_moved(self) -> NDArray[np.bool_]:
        """[d_sae]; latents that no gradient has reached since training began, so that their moments are 0."""
        never_fired = self._silent == self.examples
        if isinstance(self.variant.revival, AuxK) and self.examples >= self.config.dead_after_examples:
            never_fired &= self._negative == self.examples
        return never_fired

    def _keep_for_auxk(self, tokens: int) -> Kept:
        """Room for the pre-activations of all latents that will count as dead unless they fire in this batch."""
        may_be_dead = np.zeros(0, np.int32)
        if isinstance(self.variant.revival, AuxK):
            may_be_dead = np.flatnonzero(self._silent + tokens >= self.config.dead_after_examples).astype(np.int32)
        return Kept(may_be_dead, np.empty((tokens, len(may_be_dead)), np.float32))

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // BLOCK_ROWS)

    def _encode_batch(self, x: NDArray[np.float32], centred: NDArray[np.float32], codes: Codes, kept: Kept) -> None:
        """Write the centred batch, its codes and the pre-activations to keep."""
        parameters = self.parameters

        def block(i: int, worker: int) -> None:
            start, stop = i * BLOCK_ROWS, min((i + 1) * BLOCK_ROWS, len(x))
            center_rows(x, start, stop, parameters.b_dec, centred)
            bias = parameters.latents.b_enc
            encode_block(centred, start, stop, self._panels, bias, codes, kept, self._encode[worker])

        for buffers in self._encode:
            buffers.positive[:] = 0
        self._workers.each(self._blocks(len(x)), block)

    def _decode_batch(self, base: NDArray[np.float32], sign: int, part: Pass) -> NDArray[np.float64]:
        """Errors and slopes of a pass; returns the sum of its errors over tokens, [width]."""
        tokens, width = base.shape
        sums = np.empty((self._blocks(tokens), width), np.float32)
        W_dec, factor = self.parameters.latents.W_dec, np.float32(sign)

        def block(i: int, _: int) -> None:
            start, stop = i * BLOCK_ROWS, min((i + 1) * BLOCK_ROWS, tokens)
            decode_block(base, factor, start, stop, W_dec, part.codes, part.error, part.slopes, sums[i])

        self._workers.each(len(sums), block)
        return sums.sum(0, dtype=np.float64)

    def _count(self, tokens: int, entries: Entries) -> None:
        """Note which latents fired and which were positive."""
        self.examples += tokens
        self._silent += tokens
        self._negative += tokens
        self._silent[np.diff(entries.starts) > 0] = 0
        positive = np.logical_or.reduce([buffers.positive[: self.d_sae] for buffers in self._encode])
        self._negative[positive] = 0

    def _revive(self, kept: Kept, main: Pass, mean_error: NDArray[np.float64]) -> Part:
        """AuxK: dead latents fit the residual, the opposite of the error; `mean_error` [width] is over tokens."""
        tokens, width = main.error.shape
        nothing = Part(main.error[:0], empty_entries(self.d_sae, 0), np.float32(0))
        revival = self.variant.revival
        if not isinstance(revival, AuxK):
            return nothing
        dead = self._silent >= self.config.dead_after_examples
        useful = (dead & (self._negative == 0))[kept.latents]  # those positive nowhere would add nothing
        columns = np.flatnonzero(useful).astype(np.int32)
        k = min(self.d_in // 2 if revival.k is None else revival.k, len(columns))
        if k == 0:
            return nothing
        part = Pass.empty(tokens, width, k, self.d_sae)
        residual_spread = self._select_helpers(kept, columns, part.codes, main.error, mean_error)
        if not residual_spread > 0:
            return nothing
        self._decode_batch(main.error, 1, part)
        group_by_latent(part.codes, part.slopes, part.entries, self._workers)
        return Part(part.error, part.entries, np.float32(2 * revival.coefficient / residual_spread))

    def _select_helpers(
        self,
        kept: Kept,
        columns: NDArray[np.int32],
        codes: Codes,
        error: NDArray[np.float32],
        mean_error: NDArray[np.float64],
    ) -> float:
        """Codes of dead latents; returns the squared distance of the errors from their mean, over the batch."""
        tokens, k = codes.values.shape
        length, mean = self._encode[0].hidden.shape[1], mean_error.astype(np.float32)
        buffers = [scratch._replace(select=select_buffers(length, k)) for scratch in self._encode]
        spreads = np.empty(self._blocks(tokens))

        def block(i: int, worker: int) -> None:
            start, stop = i * BLOCK_ROWS, min((i + 1) * BLOCK_ROWS, tokens)
            select_helpers(kept, columns, start, stop, codes, buffers[worker])
            spreads[i] = spread(error, start, stop, mean)

        self._workers.each(len(spreads), block)
        for scratch in self._encode:
            scratch.hidden[0, self.d_sae :] = -np.inf
        return float(spreads.sum())

    def _update(
        self,
        centred: NDArray[np.float32],
        main: Part,
        revival: Part,
        never_moved: NDArray[np.bool_],
        error_gradient: NDArray[np.float64],
    ) -> None:
        """A step of the optimiser; `error_gradient` [width] is what b_dec's gradient receives through the output."""
        optimizer, frozen = self.variant.optimizer, self.variant.frozen
        rule = rule_for(self.variant, self.config.steps, self.steps_done, self.learning_rate)
        only_with_gradient = optimizer.kind == "sign_sgd" or optimizer.sparse
        resting = np.ones(self.d_sae, np.bool_) if only_with_gradient else never_moved
        tasks = np.linspace(0, len(self._panels), min(UPDATE_TASKS, len(self._panels)) + 1).astype(int).tolist()
        count, width = len(tasks) - 1, centred.shape[1]
        totals = Totals(np.zeros((count, width), np.float32), np.zeros((count, 1)))
        weights, m, v = self.parameters, self.first_moments, self.second_moments

        def run(i: int, worker: int) -> None:
            update_latents(
                tasks[i], tasks[i + 1], weights.latents, m.latents, v.latents, self._panels, centred, main, revival,
                resting, rule, self._gradients[worker],
                Totals(totals.input_gradient[i], totals.squared_gradient[i]),
            )  # fmt: skip

        self._workers.each(count, run)
        gradient = (error_gradient - totals.input_gradient.sum(0, dtype=np.float64)).astype(np.float32)
        self._norms = {"W": float(totals.squared_gradient.sum() ** 0.5), "b_dec": 0.0}
        if frozen != "b_dec":
            self._norms["b_dec"] = float(np.linalg.norm(gradient))
            update_vector(weights.b_dec, gradient, m.b_dec, v.b_dec, rule)
