"""Speeds that the projections need: assumed ones, and training steps that were measured on a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from benchmarks.gpu.report import Step
from benchmarks.scaling.costs import step_flops
from saelib.config import VariantConfig
from saelib.errors import UserError


@dataclass(frozen=True)
class StepCosts:
    """Seconds of the parts of a training step, fitted to measured steps."""

    per_flop: float
    """For each floating-point operation."""
    per_byte: float
    """For each byte of GPU memory that moves."""

    @staticmethod
    def fitted(steps: Sequence[Step], precision: str) -> "StepCosts":
        """Fits the two, none below 0, to the steps in a precision, with equal weights for relative errors.

        Raises:
            UserError: If there are steps of fewer than two sizes.
        """
        own = [step for step in steps if step.precision == precision]
        if len({(step.d_in, step.d_sae) for step in own}) < 2:
            raise UserError(
                f"{len(own)} training steps in {precision} were measured; a projection needs two sizes "
                "(python -m benchmarks gpu --only steps)"
            )
        work = [step_flops(VariantConfig(), one.d_in, one.d_sae, one.k, one.batch_size) for one in own]
        parts = np.array(work) / np.array([[step.ms / 1e3] for step in own])
        scale = parts.max(axis=0)
        (per_flop, per_byte), _ = nnls(parts / scale, np.ones(len(own)))
        return StepCosts(float(per_flop / scale[0]), float(per_byte / scale[1]))


@dataclass(frozen=True)
class Hardware:
    """Speeds of a GPU and a disk. Peaks are from data sheets, the rest are low guesses; only `steps` is measured."""

    gpu: str = "A100 40 GB"
    float32_flops: float = 19.5e12
    """Operations per second outside the tensor cores, which torch does not use for float32 by default."""
    half_flops: float = 312e12
    """Operations per second in bfloat16 and float16, on the tensor cores."""
    memory_bandwidth: float = 1.555e12
    """Bytes of GPU memory per second."""
    utilization: float = 0.4
    """Share of these peaks that is reached."""
    disk_bandwidth: float = 5e8
    """Bytes per second, reading or writing, for one job on a shared disk."""
    steps: StepCosts | None = None
    """Costs of training steps, if they were measured."""

    def gpu_seconds(self, flops: float, bytes_moved: float = 0.0, dtype: str = "float32") -> float:
        """Seconds of one GPU; computation and data transfer do not overlap."""
        peak = self.float32_flops if dtype == "float32" else self.half_flops
        return (flops / peak + bytes_moved / self.memory_bandwidth) / self.utilization

    def step_seconds(self, flops: float, bytes_moved: float) -> float:
        """Seconds of a training step on one GPU: from measured steps, or else as `gpu_seconds` assumes."""
        if self.steps is None:
            return self.gpu_seconds(flops, bytes_moved)
        return flops * self.steps.per_flop + bytes_moved * self.steps.per_byte
