"""Answers, in one run on one card: is the GPU path right, does it wait for the host, how far is it from the floor?

Sections run in order of worth. Their figures are printed as they come and saved after every row to report.json and
report.md. Training steps by size go to speeds.json, from which `python -m benchmarks scale` projects. The exit code is
1 if a law is broken or a section fails.
"""

import argparse
import importlib
import json
import shlex
import sys
import time
from pathlib import Path

from benchmarks.gpu.sections import SECTIONS
from benchmarks.timing import environment

PACKAGES = ("numpy", "torch", "transformers")


def main(argv: list[str]) -> None:
    options = _parser().parse_args(argv)
    import torch

    from benchmarks.gpu.card import Card
    from benchmarks.gpu.report import Report, Section
    from benchmarks.gpu.runner import Rows, run_sections
    from benchmarks.gpu.speeds import Speeds
    from saelib.files.publish import published_file
    from saelib.files.sealed import write_json

    if not options.cpu and not torch.cuda.is_available():
        sys.exit(
            f"torch {torch.__version__} finds no GPU here; `python -m benchmarks gpu --cpu --tiny` tries every section "
            "on a CPU"
        )
    device, command = "cpu" if options.cpu else "cuda", shlex.join(["python", "-m", "benchmarks", "gpu", *argv])
    names = [name for name in SECTIONS if name in (options.only or SECTIONS)]
    report = Report(_name(device), environment(*PACKAGES), [Section(name, SECTIONS[name]) for name in names])

    def rows_of(name: str) -> Rows:
        return importlib.import_module(f"benchmarks.gpu.sections.{name}").rows

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    def save(report: Report) -> None:
        write_json(options.out / "report.json", report.to_dict())
        write_json(options.out / "speeds.json", Speeds.of(report, command).to_dict())
        with published_file(options.out / "report.md") as draft:
            draft.write_text(report.to_markdown())

    say(f"{report.device}; " + ", ".join(f"{name} {value}" for name, value in report.environment.items()))
    card = Card(device, options.tiny, time.monotonic() + 60 * options.minutes)
    run_sections(report, rows_of, card, say, save)
    say(f"\nIn {options.out}: report.json, report.md, and speeds.json for `python -m benchmarks scale --gpu`")
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    if report.broken or report.failed:
        sys.exit(
            "\n".join([*(f"broken: {law}" for law in report.broken), *(f"failed: {one}" for one in report.failed)])
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="stop after the row that runs then (default: 8)")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="run this section; may be given again")
    parser.add_argument("--cpu", action="store_true", help="measure a CPU, where there is no GPU")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that each section runs")
    parser.add_argument(
        "--out", type=Path, default=Path("results/gpu"), help="folder of the report (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON at the end, and the progress on stderr")
    return parser


def _name(device: str) -> str:
    import torch

    from benchmarks.gpu.speeds import CPU

    if device == "cpu":
        return CPU
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, {card.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
