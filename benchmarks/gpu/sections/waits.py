"""Counts for each method how often a step waits for the host and how many kernels it launches, and times it.

Without a GPU, steps run on the meta device of torch, whose tensors have shapes but no values: reading one is an error.
"""

import warnings
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.methods import make_trainer, methods
from benchmarks.gpu.report import Row
from saelib.config import VariantConfig

WAITS = "waits for the host"


def rows(card: Card) -> Iterator[Row]:
    """One row for each method but resampling, which waits only at the steps at which it resamples."""
    for name, variant in methods().items():
        if variant.dead_latents.kind != "resample":
            figures, note = _on_gpu(card, variant) if card.on_gpu else _on_meta(variant)
            yield Row(name, figures, {WAITS: 0}, note)
            card.free()


def _on_meta(variant: VariantConfig) -> tuple[dict[str, float], str]:
    trainer = make_trainer(variant, d_in=32, d_sae=256, k=4, batch_size=64, device="meta", dtype=torch.float32)
    x = torch.empty(64, 32, device="meta")
    try:
        for _ in range(4):  # latents are dead from the second on
            trainer.step(x)
    except RuntimeError as error:  # raised by torch for a value that is read, or a shape that depends on values
        return {WAITS: 1}, str(error).strip().splitlines()[0]
    return {WAITS: 0}, ""


def _on_gpu(card: Card, variant: VariantConfig) -> tuple[dict[str, float], str]:
    setting = card.setting()
    shape = {"d_in": setting.d_in, "d_sae": setting.d_sae, "k": setting.k, "batch_size": setting.batch_size}
    trainer = make_trainer(variant, **shape, device=card.device, dtype=torch.float32)
    x = torch.randn(setting.batch_size, setting.d_in, device=card.device)

    def step() -> None:
        trainer.step(x)

    for _ in range(3):
        step()
    waits = count_waits(step)
    kernels, busy = _kernels(step)
    pace = card.paced(step)
    figures = {WAITS: len(waits), "kernels": kernels, "kernels, ms": busy, "step, ms": pace.ms}
    return figures | {"host, ms": pace.host_ms, "peak, GB": pace.peak_gb}, ", ".join(sorted(set(waits)))


def count_waits(call: Callable[[], object]) -> list[str]:
    """The lines of code in which the host waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [
        f"{warning.filename.rpartition('/')[2]}:{warning.lineno}"
        for warning in caught
        if "synchronizing CUDA operation" in str(warning.message)
    ]


def _kernels(call: Callable[[], object]) -> tuple[int, float]:
    """Returns the number of kernels that run, and the milliseconds that they take together."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        call()
        torch.cuda.synchronize()
    events = [event for event in record.key_averages() if str(event.device_type).endswith("CUDA")]
    return sum(event.count for event in events), sum(event.self_device_time_total for event in events) / 1e3
