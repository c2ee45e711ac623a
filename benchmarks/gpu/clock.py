"""Times calls on a device, which is still at work when a call returns. It needs only torch."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Pace:
    """The time and memory of one of many calls in a row, as a training loop makes them."""

    ms: float
    """Milliseconds per call until the device is done."""
    host_ms: float
    """Milliseconds per call until the host is free. If they are close to `ms`, the host limits the speed."""
    peak_gb: float
    """Peak memory of the device in GB; 0 on a CPU."""


def paced(call: Call, device: str, repeats: int, warm: int = 3) -> Pace:
    """Times `repeats` calls in a row, and waits for the device once, at the end."""
    for _ in range(warm):
        call()
    synchronize(device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    host = time.perf_counter() - start
    synchronize(device)
    whole = time.perf_counter() - start
    peak = 0 if device == "cpu" else torch.cuda.max_memory_allocated()
    return Pace(1e3 * whole / repeats, 1e3 * host / repeats, peak / 1e9)


def median_ms(call: Call, device: str, repeats: int, warm: int = 3) -> float:
    """Measures the median milliseconds of a call by the device's clock, including its waits for the host."""
    for _ in range(warm):
        call()
    synchronize(device)
    one = _by_host if device == "cpu" else _by_device
    return statistics.median(one(call) for _ in range(repeats))


def synchronize(device: str) -> None:
    """Waits until the device has done all that was asked of it."""
    if device != "cpu":
        torch.cuda.synchronize()


def _by_device(call: Call) -> float:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def _by_host(call: Call) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
