"""The common part of all trainers on kernels: parameters, moments, counters, and the end of a step."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.training import AuxK
from saelib.sae.kernels.latents import StepTotals, update_vector
from saelib.sae.kernels.parameters import Parameters, sae_of
from saelib.sae.kernels.rule import OptimizerStep, optimizer_step
from saelib.sae.kernels.threads import Workers, shared_workers
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings


class TopKTrainer(ABC):
    """A `saelib.sae.trainer.Trainer` without `step`."""

    def __init__(self, sae: SAE, settings: TrainerSettings) -> None:
        """Copies `sae`, which is on the CPU and has a k. The kernels have Adam and SignSGD, and no clipping."""
        assert sae.k is not None
        self.settings, self.config, self.variant = settings, settings.config, settings.variant
        self.threads = settings.threads
        self.steps_done = self.examples = 0
        self.d_in, self.d_sae, self.k = sae.d_in, sae.d_sae, sae.k
        self.parameters = Parameters(self.d_in, self.d_sae)
        self.parameters.load(sae.state_dict())
        self.parameters.latents.b_enc[self.d_sae :] = -np.inf  # so that padding is never selected
        self._has_moments = self.variant.optimizer.kind == "adam"
        moments = (self.d_in, self.d_sae) if self._has_moments else (1, 1)
        self.first_moments, self.second_moments = Parameters(*moments), Parameters(*moments)
        self._silent, self._negative = np.zeros(self.d_sae, np.int64), np.zeros(self.d_sae, np.int64)
        self.tokens_since_fired = torch.from_numpy(self._silent)
        self.tokens_since_positive = torch.from_numpy(self._negative)
        self._pack()
        self._sae = sae_of(self.parameters, self.k)
        self._norms = {"W": 0.0, "b_dec": 0.0}

    @property
    def sae(self) -> SAE:
        """The parameters as they are now; not to be changed, and valid until the next step."""
        return self._sae

    def gradient_norms(self) -> dict[str, float]:
        """L2 norms of the last step's gradients, before projection: `W` (both matrices) and `b_dec`."""
        return dict(self._norms)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything the next step depends on."""
        state = dict(self.parameters.copies())
        if self._has_moments:
            state |= dict(self.first_moments.copies("m.")) | dict(self.second_moments.copies("v."))
        return state | {
            "steps_done": torch.tensor(self.steps_done),
            "examples": torch.tensor(self.examples),
            "tokens_since_fired": self.tokens_since_fired.clone(),
            "tokens_since_positive": self.tokens_since_positive.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from `state_dict`, bit for bit."""
        self.parameters.load(state)
        if self._has_moments:
            self.first_moments.load(state, "m.")
            self.second_moments.load(state, "v.")
        self.tokens_since_fired.copy_(state["tokens_since_fired"])
        self.tokens_since_positive.copy_(state["tokens_since_positive"])
        self.steps_done, self.examples = int(state["steps_done"]), int(state["examples"])
        self._pack()

    @abstractmethod
    def _pack(self) -> None:
        """Copies W_enc to where the encoder reads it."""

    @property
    def _workers(self) -> Workers:
        return shared_workers(self.threads)

    def _rule(self) -> OptimizerStep:
        """The optimizer's numbers for the step under way."""
        return optimizer_step(self.variant, self.config.steps, self.steps_done, self.settings.learning_rate)

    def _untouched(self) -> NDArray[np.bool_]:
        """[d_sae]; latents that stay as they are if this step brings them no gradient. Before the step is counted."""
        optimizer = self.variant.optimizer
        if optimizer.kind == "sign_sgd" or optimizer.sparse:
            return np.ones(self.d_sae, np.bool_)
        never_moved = self._silent == self.examples  # no gradient since training began, so that moments are 0
        if isinstance(self.variant.dead_latents, AuxK) and self.examples >= self.config.dead_after_examples:
            never_moved &= self._negative == self.examples
        return never_moved

    def _may_be_dead(self, tokens: int) -> NDArray[np.int32]:
        """Latents that will count as dead for AuxK unless they fire in this batch; none without AuxK."""
        if not isinstance(self.variant.dead_latents, AuxK):
            return np.zeros(0, np.int32)
        return np.flatnonzero(self._silent + tokens >= self.config.dead_after_examples).astype(np.int32)

    def _helpers(self) -> tuple[NDArray[np.int32], int]:
        """Latents that AuxK lets help in this step, and how many of them a token takes; once the batch is counted.

        They are the dead ones that are positive for some token: the others would add nothing.
        """
        dead_latents = self.variant.dead_latents
        if not isinstance(dead_latents, AuxK):
            return np.zeros(0, np.int32), 0
        dead = self._silent >= self.config.dead_after_examples
        helpers = np.flatnonzero(dead & (self._negative == 0)).astype(np.int32)
        return helpers, min(self.d_in // 2 if dead_latents.k is None else dead_latents.k, len(helpers))

    def _count(self, tokens: int, fired: NDArray[np.bool_], positive: NDArray[np.bool_]) -> None:
        """Note which latents fired and which were positive in the batch; both [d_sae]."""
        self.examples += tokens
        self._silent += tokens
        self._negative += tokens
        self._silent[fired] = 0
        self._negative[positive] = 0

    def _finish(self, error_gradient: NDArray[np.float64], totals: StepTotals, rule: OptimizerStep) -> None:
        """Moves b_dec and notes the norms of gradients.

        Args:
            error_gradient: [width]; what b_dec's gradient receives through the output.
            totals: [runs, width] and [runs, 1], of all latents.
            rule: The optimizer's numbers for this step.
        """
        b_dec = self.parameters.b_dec
        gradient = error_gradient - totals.input_gradient.sum(0, dtype=np.float64)
        self._norms = {"W": float(totals.squared_gradient.sum() ** 0.5), "b_dec": 0.0}
        if self.variant.frozen != "b_dec":
            self._norms["b_dec"] = float(np.linalg.norm(gradient))
            moments = self.first_moments.b_dec, self.second_moments.b_dec
            update_vector(b_dec, gradient.astype(np.float32), *moments, rule)
        if not np.isfinite(error_gradient).all():  # as in dense training, where NaN is selected and spreads
            b_dec[:] = np.nan
