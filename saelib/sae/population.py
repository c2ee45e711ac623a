"""Many SAEs of one size, trained on one stream: each reads the same signal at its own scale and offset."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.errors import UserError
from saelib.sae.choose import trainer_kind
from saelib.sae.kernels.cpu import why_unsupported
from saelib.sae.model import SAE
from saelib.sae.trainer import Trainer, TrainerSettings

if TYPE_CHECKING:
    from saelib.sae.kernels.columns import Batch
    from saelib.sae.kernels.small import Scratch

log = logging.getLogger(__name__)


class PopulationTrainer:
    """Trains many SAEs on the CPU. SAE i reads scales[i] * signal + offsets[i].

    All have the same d_in, d_sae and (if they have one) k; weights, learning rate and variant are each SAE's own. Each
    SAE is trained by the fastest trainer for its variant. Those that `SmallKernelTrainer` can train read one prepared
    copy of the signal and step side by side, one thread each. No bit of an SAE depends on the other SAEs or on the
    number of threads.

    The metrics describe the batch of the last step, for the parameters that the step started from.

    Example:
        trainer = PopulationTrainer(saes, settings, scales=[1.0, 1.0], offsets=[mean, 4 * mean], threads=2)
        for _ in range(steps):
            trainer.step(data.signal(4096, rng))
        trainer.mse, trainer.sae(0)
    """

    mse: NDArray[np.float64]
    """[saes]; squared error, summed over dimensions, averaged over tokens."""
    mean_kth_activation: NDArray[np.float64]
    """[saes]; mean over tokens of the k-th largest activation, which is 0 if fewer than k latents are positive. Of
    BatchTopK, the smallest selected activation of the batch; of architectures without k, the mean of the largest."""
    mean_decoded: NDArray[np.float64]
    """[saes, d_in]; mean over tokens of z W_dec, the latents' part of the reconstruction. Its component along
    the data's mean is what the latents have captured of it, and that of b_dec what the bias has."""

    def __init__(
        self,
        saes: Sequence[SAE],
        settings: Sequence[TrainerSettings],
        scales: Sequence[float] | NDArray[np.floating],
        offsets: Sequence[NDArray[np.floating]] | NDArray[np.floating],
        threads: int = 1,
        measure: bool = True,
    ) -> None:
        """Takes over `saes`.

        Args:
            saes: Float32, on the CPU, of any architecture; at least one.
            settings: Of each SAE. `variance` is that of what this SAE reads. `threads` is ignored.
            scales: [saes]
            offsets: [saes, d_in]
            threads: CPU threads in all.
            measure: Compute the metrics of all SAEs. Without it, only the kernels for small SAEs do, at no cost. The
                others would need another forward pass, and their metrics stay NaN.

        Raises:
            UserError: if the sizes of the SAEs differ, or if there is not one of everything for each SAE.
        """
        self._scales, self._offsets = np.asarray(scales, np.float32), np.asarray(offsets, np.float32)
        _check_shapes(saes, settings, self._scales, self._offsets)
        kinds = [trainer_kind(sae, own) for sae, own in zip(saes, settings, strict=True)]
        for reason, count in Counter(reason for _, reason in kinds).items():
            log.info("%d SAEs: %s", count, reason)
        self.threads, self._measures = threads, measure
        self.members: list[Trainer] = [
            kind(sae, replace(own, threads=1)) for (kind, _), sae, own in zip(kinds, saes, settings, strict=True)
        ]
        """The trainer of each SAE. A population is stored and restored by their `state_dict` and `load_state_dict`."""
        self._small, self._large, self._with_torch = _split(self.members)
        count, d_in = len(saes), saes[0].d_in
        self.mse, self.mean_kth_activation = np.full((2, count), np.nan)
        self.mean_decoded = np.full((count, d_in), np.nan)
        self._batch: Batch | None = None
        self._scratch: list[Scratch] = []

    @property
    def steps_done(self) -> int:
        """Steps so far."""
        return self.members[0].steps_done

    @property
    def tokens_since_fired(self) -> NDArray[np.int64]:
        """int64 [saes, d_sae]; tokens since each latent last fired (selected with a value above 0)."""
        return np.stack([member.tokens_since_fired.numpy() for member in self.members])

    @property
    def tokens_since_positive(self) -> NDArray[np.int64]:
        """int64 [saes, d_sae]; tokens since each latent's pre-activation was last above 0."""
        return np.stack([member.tokens_since_positive.numpy() for member in self.members])

    def sae(self, i: int) -> SAE:
        """The parameters of SAE `i` as they are now; not to be changed, and valid until the next step."""
        return self.members[i].sae

    def step(self, signal: NDArray[np.float32], learning_rates: Sequence[float] | None = None) -> None:
        """Makes one step of every SAE.

        Args:
            signal: float32 [tokens, d_in], contiguous.
            learning_rates: [saes]; replace those of the settings from this step on.
        """
        if learning_rates is not None:
            for member, rate in zip(self.members, learning_rates, strict=True):
                member.settings = replace(member.settings, learning_rate=float(rate))
        if self._small:
            self._prepare(signal)
            self._mean_signal = signal.mean(0, dtype=np.float64)
            self._each(len(self._small), lambda task, worker: self._step_small(self._small[task], worker))
        if self._large:
            self._each(len(self._large), lambda task, _: self._step_alone(self._large[task], signal))
        for i in self._with_torch:
            self._step_alone(i, signal)

    def _each(self, tasks: int, do: Callable[[int, int], None]) -> None:
        from saelib.sae.kernels.threads import shared_workers

        shared_workers(self.threads).each(tasks, do)

    def _prepare(self, signal: NDArray[np.float32]) -> None:
        """Copies the signal to where the kernels read it."""
        from saelib.sae.kernels.columns import empty_batch
        from saelib.sae.kernels.small import Scratch
        from saelib.sae.kernels.small_pass import RUN, fill_run

        tokens, d_in = signal.shape
        if self._batch is None or len(self._batch.rows) != tokens or len(self._scratch) != self.threads:
            sae = self.sae(self._small[0])
            assert sae.k is not None
            self._batch = empty_batch(tokens, d_in)
            self._scratch = [Scratch(d_in, sae.d_sae, sae.k, tokens, threads=1) for _ in range(self.threads)]
        batch, nothing = self._batch, np.zeros(d_in, np.float32)
        self._each(-(-tokens // RUN), lambda run, _: fill_run(signal, nothing, run, batch))

    def _step_small(self, i: int, worker: int) -> None:
        from saelib.sae.kernels.small import SmallKernelTrainer
        from saelib.sae.kernels.small_pass import Reading

        member, scratch = self.members[i], self._scratch[worker]
        assert isinstance(member, SmallKernelTrainer)
        assert self._batch is not None
        center = -member.parameters.b_dec
        center[: member.d_in] += self._offsets[i]
        member.step_on(self._batch, Reading(self._scales[i], center), scratch)
        error, squares = scratch.sums.error[:, :, : member.d_in].sum(0, dtype=np.float64) / scratch.tokens
        self.mse[i] = squares.sum()
        self.mean_kth_activation[i] = scratch.sums.bars.sum() / scratch.tokens
        self.mean_decoded[i] = error + self._scales[i] * self._mean_signal + center[: member.d_in]

    def _step_alone(self, i: int, signal: NDArray[np.float32]) -> None:
        x = torch.from_numpy(self._scales[i] * signal + self._offsets[i])
        if self._measures:
            self._measure(i, x)
        self.members[i].step(x)

    @torch.no_grad()
    def _measure(self, i: int, x: Tensor) -> None:
        sae = self.sae(i)
        hidden_pre = sae.hidden_pre(x)
        if sae.architecture == "batch_topk":
            assert sae.k is not None
            bar = hidden_pre.flatten().topk(sae.k * len(x)).values[-1].clamp(min=0)
            codes, kth = torch.where(hidden_pre >= bar, hidden_pre, 0).relu(), bar
        else:
            codes = sae.activate(hidden_pre)
            kth = codes.topk(sae.k or 1, dim=1).values[:, -1].mean()
        self.mean_kth_activation[i] = kth
        decoded = codes @ sae.W_dec
        self.mse[i] = (decoded + sae.b_dec - x).square().sum(1).mean()
        self.mean_decoded[i] = decoded.mean(0)


def _check_shapes(
    saes: Sequence[SAE],
    settings: Sequence[TrainerSettings],
    scales: NDArray[np.float32],
    offsets: NDArray[np.float32],
) -> None:
    sizes, ks = {(sae.d_in, sae.d_sae) for sae in saes}, {sae.k for sae in saes if sae.k is not None}
    if len(sizes) != 1 or len(ks) > 1:
        found = f"(d_in, d_sae) of {sorted(sizes)} and k of {sorted(ks)}"
        raise UserError(f"the SAEs of a population must have one d_in, d_sae and k, but these have {found}")
    (d_in, _), count = sizes.pop(), len(saes)
    if len(settings) != count or scales.shape != (count,) or offsets.shape != (count, d_in):
        raise UserError(
            f"{count} SAEs of d_in {d_in} need {count} settings, scales [{count}] and offsets [{count}, {d_in}]; these "
            f"are {len(settings)}, {list(scales.shape)} and {list(offsets.shape)}"
        )


def _split(members: Sequence[Trainer]) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the members that the kernels for small SAEs, the other kernels, and torch train."""
    if why_unsupported() is not None:
        return [], [], list(range(len(members)))

    from saelib.sae.kernels.small import SmallKernelTrainer
    from saelib.sae.kernels.topk_trainer import TopKTrainer

    small = [i for i, member in enumerate(members) if isinstance(member, SmallKernelTrainer)]
    kernels = [i for i, member in enumerate(members) if isinstance(member, TopKTrainer)]
    return small, sorted({*kernels} - {*small}), sorted({*range(len(members))} - {*kernels})
