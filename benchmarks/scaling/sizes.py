"""The sizes that are measured, and the result of one measurement."""

import statistics
from dataclasses import dataclass, replace
from typing import Literal

Axis = Literal["tokens", "d_in", "d_sae", "layers"]


BATCH, K = 4096, 64
"""Tokens of a training step, as in the paper."""


@dataclass(frozen=True)
class Size:
    """The size of one run of a stage."""

    tokens: int
    """Rows extracted, measured, or seen in training."""
    d_in: int
    d_sae: int = 0
    layers: int = 1

    @property
    def parameters(self) -> int:
        """Parameters of the blocks of a transformer with MLPs four times as wide as its residual stream."""
        return 12 * self.d_in**2 * self.layers


@dataclass(frozen=True)
class Point:
    """The measurement of one size."""

    size: Size
    seconds: tuple[float, ...]
    """CPU seconds of each repeat."""
    memory: tuple[int, ...]
    """Peak memory that each repeat adds, in bytes."""
    disk: int
    """Bytes that the run leaves on disk."""

    @property
    def cpu_seconds(self) -> float:
        """Median CPU seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Sweep:
    """One stage at several sizes that differ along one axis."""

    stage: str
    axis: Axis
    sizes: tuple[Size, ...]
    expected: tuple[float, float]
    """Range of exponents expected for CPU time at large sizes; (1, 1) is linear."""
    because: str
    """Why these exponents are expected."""


def sweeps(quick: bool) -> list[Sweep]:
    """Returns the sweeps, of three sizes each if `quick`, otherwise of four."""
    at = 3 if quick else 4
    # Statistics by tokens use a width at which the Gram matrices, not the medians, dominate.
    extract, stats, death = Size(4096, 128, layers=4), Size(6144, 1024), Size(4096, 256, 2048)
    steps = tuple(number * BATCH for number in (4, 8, 16, 32))
    train = Size(steps[1], 512, 4096)
    doubled = {size: tuple(size * 2**i for i in range(4)) for size in (2, 128, 256, 1024, 2048, 6144)}

    def sweep(
        stage: str,
        axis: Axis,
        base: Size,
        values: tuple[int, ...],
        because: str,
        expected: tuple[float, float] = (1, 1),
    ) -> Sweep:
        return Sweep(stage, axis, tuple(replace(base, **{axis: value}) for value in values[:at]), expected, because)

    return [
        sweep("extract", "tokens", extract, doubled[2048], "every token passes once"),
        sweep("extract", "layers", extract, doubled[2], "each block runs once, each layer is stored"),
        sweep("extract", "d_in", Size(2048, 128, layers=2), doubled[128], "12 d_in^2 weights a block", (1, 2)),
        sweep("store", "d_in", Size(8192, 256), doubled[256], "extraction without its forward pass"),
        sweep("stats", "tokens", stats, doubled[6144], "every pass reads every token"),
        sweep("stats", "d_in", stats, doubled[128], "medians, Gram matrices (2), eigenvectors (3)", (1, 3)),
        sweep("eigenvectors", "d_in", Size(1, 256), doubled[256], "LAPACK's eigh; less for small ones", (3, 3)),
        sweep("init_death", "tokens", death, doubled[2048], "one product each; the first tokens rank more"),
        sweep("init_death", "d_in", death, doubled[128], "the product; selecting is the same for any width"),
        sweep("init_death", "d_sae", death, doubled[1024], "the product and the selection"),
        sweep("train", "tokens", train, steps, "every step costs the same"),
        sweep("train", "d_in", train, (256, 512, 768, 1024), "all products"),
        sweep("train", "d_sae", train, doubled[1024], "the encoder's product, Adam; what is selected costs k d_in"),
        sweep("whitening", "d_in", Size(8192, 256), doubled[256], "one matrix product for each row", (1, 2)),
    ]
