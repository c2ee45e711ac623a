"""Times of calls on a device, which works on after the host has asked for the work. Needs torch alone."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Pace:
    """One of many calls in a row, as a training loop makes them."""

    ms: float
    """Milliseconds per call until the device is done."""
    host_ms: float
    """Milliseconds per call until the host is free; close to `ms`, the host is what takes the time."""
    peak_gb: float
    """Highest memory of the device in use meanwhile; 0 on a CPU."""


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
    """Median milliseconds of a call by the device's own clock; the host's time counts where the device waits for it."""
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
