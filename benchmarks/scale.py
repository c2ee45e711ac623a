"""Measures how each stage's time, memory and disk grow, and projects the costs of a suite from that.

It measures CPU seconds, memory above the start and bytes on disk at several sizes, on one thread. To each it fits a
power law, with a 95 % interval of the exponent, and a straight line. The speeds of a GPU and of a cluster's disk are
assumed (`benchmarks/scaling/hardware.py`), except that of training steps if `--gpu` gives measured ones.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers.utils import logging

from benchmarks.gpu.speeds import Speeds
from benchmarks.scaling.costs import Found, measured_costs
from benchmarks.scaling.fits import Line, Power, fit_line, fit_power
from benchmarks.scaling.hardware import Hardware, StepCosts
from benchmarks.scaling.measure import measure_sweep, stats_passes
from benchmarks.scaling.project import StageCost, checkpoint_bytes, project, unsized, with_tokens, without_gpus
from benchmarks.scaling.sizes import Point, Sweep, sweeps
from benchmarks.timing import command_line, environment, environment_line, show
from saelib.config import Config, load_config

PACKAGES = ("numpy", "numba", "torch", "transformers", "zarr")
FACTORS = (1, 10, 100)
STRAIGHT = 0.2
"""Largest relative distance from a line for growth to count as linear. Timings of a shared machine scatter by a tenth
or more."""


def main(argv: list[str]) -> None:
    parser = command_line("scale", __doc__)
    parser.add_argument(
        "--quick", action="store_true", help="three sizes instead of four, and two repeats instead of three"
    )
    parser.add_argument("--configfile", type=Path, default=Path("configs/paper.yaml"), help="the suite to project")
    parser.add_argument("--gpu", type=Path, help="speeds.json of `python -m benchmarks gpu`, to project training from")
    options = parser.parse_args(argv)
    config = load_config(options.configfile)
    speeds = None if options.gpu is None else Speeds.read(options.gpu)
    hardware = Hardware(steps=speeds and StepCosts.fitted(speeds.steps, config.train.precision))
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    found = [(sweep, measure_sweep(sweep, 2 if options.quick else 3)) for sweep in sweeps(options.quick)]
    costs, passes = measured_costs(found), stats_passes()
    projected = {n: project(with_tokens(config, n), costs, passes, hardware) for n in FACTORS}
    on_cpus = {n: without_gpus(with_tokens(config, n), costs) for n in FACTORS}

    report: dict[str, object] = {
        "growth": [growth(sweep, points) for sweep, points in found],
        "models": {stage: {"seconds": m.coefficients, "worst": m.worst} for stage, m in costs.seconds.items()},
        "stats_passes": passes,
        "assumed": asdict(hardware),
        "measured_gpu": speeds and speeds.to_dict(),
        "projected": {n: {stage: asdict(cost) for stage, cost in of.items()} for n, of in projected.items()},
        "without_gpus_cpu_hours": on_cpus,
        "checkpoint_bytes": checkpoint_bytes(config),
        "environment": environment(*PACKAGES),
    }
    lines = growth_lines(found)
    errors = [f"{stage} {100 * model.worst:.0f} %" for stage, model in costs.seconds.items()]
    lines += [f"largest error of the terms that are projected, over all sizes: {', '.join(errors)}", ""]
    lines += assumption_lines(hardware, speeds, config, passes)
    gpu_hours = "GPU-h" if speeds else "GPU-h (assumed)"
    for factor, stages in projected.items():
        lines += projection_lines(with_tokens(config, factor), factor, stages, on_cpus[factor], gpu_hours)
    show(report, [*lines, environment_line(*PACKAGES)], options.json)


def growth(sweep: Sweep, points: list[Point]) -> dict[str, object]:
    """Converts one sweep with its fits to JSON."""
    n = [float(getattr(point.size, sweep.axis)) for point in points]
    figures: dict[str, object] = {"stage": sweep.stage, "axis": sweep.axis, "n": n, "expected_power": sweep.expected}
    for quantity, repeats in {"cpu_seconds": "seconds", "memory": "memory", "disk": "disk"}.items():
        power, line = fits(sweep, points, repeats)
        measured = [getattr(point, repeats) for point in points]
        figures[quantity] = {"measured": measured, "power": power and asdict(power), "line": line and asdict(line)}
    return figures


def fits(sweep: Sweep, points: Sequence[Point], quantity: str) -> tuple[Power | None, Line | None]:
    """Fits a power law to all repeats and a line to their medians; None if the quantity is constant or 0."""
    n, y, medians = [], [], []
    for point in points:
        values = np.atleast_1d(getattr(point, quantity)).tolist()
        n += [float(getattr(point.size, sweep.axis))] * len(values)
        y += values
        medians.append(statistics.median(values))
    if min(y) <= 0 or min(y) == max(y):
        return None, None
    return fit_power(n, y), fit_line([float(getattr(point.size, sweep.axis)) for point in points], medians)


def growth_lines(found: Found) -> list[str]:
    lines = [f"{'':22}{'sizes':>17}{'from':>10}{'to':>8}   power of n (95 %)      a + b n (worst point)"]
    for sweep, points in found:
        first, last = (getattr(point.size, sweep.axis) for point in (points[0], points[-1]))
        head = f"{sweep.stage + ' by ' + sweep.axis:22}{first:>8} - {last:<6}"
        for quantity, unit, label in (("seconds", 1, "CPU-s"), ("memory", 1e6, "MB"), ("disk", 1e6, "MB disk")):
            power, line = fits(sweep, points, quantity)
            if power is None or line is None:
                continue
            low, high = (float(np.median(getattr(point, quantity))) / unit for point in (points[0], points[-1]))
            lines.append(
                f"{head:39}{low:10.2f}{high:8.2f} {label:8}{power.exponent:5.2f} ({power.low:.2f} to {power.high:.2f})"
                f"  {line.a / unit:8.3g} + {line.b / unit:.3g} n ({100 * line.worst:.0f} %)"
            )
            head = ""
        lines.append(f"{'':10}{verdict(sweep, fits(sweep, points, 'seconds')[1])}")
    return lines


def verdict(sweep: Sweep, line: Line | None) -> str:
    """Says whether time grows as expected. A start-up paid once lowers the exponent, but keeps the line straight."""
    low, high = sweep.expected
    if (low, high) != (1, 1):
        power = f"n^{low:g}" if low == high else f"n^{low:g} to n^{high:g}"
        return f"{power} expected for large sizes: {sweep.because}"
    if line is None or line.worst <= STRAIGHT:
        return f"linear: {sweep.because}"
    return f"no line, {100 * line.worst:.0f} % off: {sweep.because}"


def assumption_lines(hardware: Hardware, speeds: Speeds | None, config: Config, passes: float) -> list[str]:
    """Says what the projection assumes, and what was measured."""
    return [
        f"Assumed, never measured: {hardware.gpu} with {hardware.float32_flops / 1e12:g} TFLOP/s in float32, "
        f"{hardware.half_flops / 1e12:g} in 16 bits, {hardware.memory_bandwidth / 1e9:g} GB/s, "
        f"{100 * hardware.utilization:.0f} % of each reached; disk {hardware.disk_bandwidth / 1e6:g} MB/s a job.",
        gpu_line(speeds, config.train.precision),
        f"Measured: everything in CPU-hours (one core of this machine); statistics read each row {passes:.0f} times.",
        f"Left out: the report, attention's own products, and for want of width or parameters: "
        f"{', '.join(unsized(config)) or 'nothing'}.",
    ]


def gpu_line(speeds: Speeds | None, precision: str) -> str:
    """Says where the GPU-hours of training come from."""
    if speeds is None:
        return (
            "The same is assumed for training steps. --gpu FILE takes those that `python -m benchmarks gpu` measures "
            "(speeds.json)."
        )
    steps = [step for step in speeds.steps if step.precision == precision]
    sizes = ", ".join(f"{step.d_in:,} -> {step.d_sae:,} in {step.ms:.3g} ms" for step in steps)
    return (
        f"Measured on {speeds.card}: training steps in {precision}, {sizes} ({speeds.command}; torch "
        f"{speeds.environment.get('torch', 'unknown')}). Steps of other sizes and of AuxK follow from their operations "
        "and bytes. What is assumed about the GPU is for forward passes alone."
    )


def projection_lines(
    config: Config, factor: int, stages: dict[str, StageCost], on_cpus: dict[str, float], gpu_hours: str
) -> list[str]:
    settings = config.extraction
    lines = [
        "",
        f"{len(config.models)} models, {settings.tokens:,} + {settings.heldout_tokens:,} tokens ({factor}x):",
        f"{'':12}{gpu_hours:>16}{'CPU-h':>10}{'disk-h (assumed)':>18}{'disk, TB':>10}{'memory, GB':>12}{'GPU, GB':>9}",
    ]
    for stage, cost in stages.items():
        lines.append(
            f"{stage:12}{cost.gpu_hours:16.1f}{cost.cpu_hours:10.1f}{cost.disk_hours:18.1f}{cost.disk / 1e12:10.3f}"
            f"{cost.memory / 1e9:12.1f}{cost.gpu_memory / 1e9:9.1f}"
        )
    instead = ", ".join(f"{stage} {hours:,.0f}" for stage, hours in on_cpus.items())
    return [
        *lines,
        f"without any GPU, CPU-h instead (AuxK not counted): {instead}; checkpoints of one training while it runs: "
        f"{checkpoint_bytes(config) / 1e9:.1f} GB",
    ]
