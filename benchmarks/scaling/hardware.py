"""Assumptions of the projections about machines that were not measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Speeds of a GPU and a disk. None was measured here: peaks are from data sheets, the rest are low guesses."""

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

    def gpu_seconds(self, flops: float, bytes_moved: float = 0.0, dtype: str = "float32") -> float:
        """Seconds of one GPU; computation and data transfer do not overlap."""
        peak = self.float32_flops if dtype == "float32" else self.half_flops
        return (flops / peak + bytes_moved / self.memory_bandwidth) / self.utilization
