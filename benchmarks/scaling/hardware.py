"""What projections assume of machines that were not measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Nothing here was measured by us: peaks from data sheets, the rest guessed on the low side."""

    gpu: str = "A100 40 GB"
    float32_flops: float = 19.5e12
    """A second, outside the tensor cores, which torch leaves out of float32 unless told otherwise."""
    half_flops: float = 312e12
    """In bfloat16 and float16, on the tensor cores."""
    memory_bandwidth: float = 1.555e12
    """Bytes of GPU memory a second."""
    utilization: float = 0.4
    """Share of these that is reached."""
    disk_bandwidth: float = 5e8
    """Bytes a second, reading or writing, for one job on a shared disk."""

    def gpu_seconds(self, flops: float, bytes_moved: float = 0.0, dtype: str = "float32") -> float:
        """Of one GPU; computing and moving do not overlap."""
        peak = self.float32_flops if dtype == "float32" else self.half_flops
        return (flops / peak + bytes_moved / self.memory_bandwidth) / self.utilization
