"""Breaks runs of the miniature suite in every stage and tallies the outcomes: `python -m tools.drill`.

It needs Linux; the full disk needs root, and the jumping clock a C compiler. Each case prints a line. It must reproduce
the undisturbed results bit for bit, or first stop with one clear refusal and then reproduce them. Anything else is a
defect, and the exit code is 1.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.drill.damage import FILES, damaged_checkpoint, damaged_plan, damaged_result
from tools.drill.ground import DEFECT, Case, DefectFound, Ground
from tools.drill.kills import kill
from tools.drill.surroundings import clock_elsewhere, file_dates, full_disk, read_only, two_runs

Disturbance = Callable[[Ground, Case], str]


def main() -> None:
    """Reads the command line, runs the cases and prints the tally."""
    parser = argparse.ArgumentParser(prog="python -m tools.drill", description=__doc__)
    parser.add_argument("--kills", type=int, default=int(os.environ.get("DRILL_KILLS", 100)), help="number of kills")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first case; each further case has the next one"
    )
    parser.add_argument(
        "--only", default="", help="only cases whose name contains this: kill, full_disk, damaged_plan, …"
    )
    parser.add_argument("--at-once", type=int, default=2, help="number of cases that run at a time")
    parser.add_argument(
        "--tally", type=Path, default=Path("drill.jsonl"), help="file for the cases, one JSON line each"
    )
    options = parser.parse_args()
    cases = [(one, options.seed + n) for one, n in _cases(options.kills) if options.only in one.__name__]
    scratch = Path(tempfile.mkdtemp(prefix="saelib-drill-"))
    started = time.monotonic()
    try:
        print("the undisturbed run")
        ground = Ground(scratch)
        with ThreadPoolExecutor(options.at_once) as pool, options.tally.open("w") as tally:
            done = []
            for case in pool.map(lambda one: _case(ground, *one), cases):
                done.append(case)
                print(f"{case.name} {case.seed}: {case.moment}: {case.outcome} ({case.seconds:.1f} s)", flush=True)
                line = {name: value for name, value in vars(case).items() if name != "rng"}
                print(json.dumps(line), file=tally, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _print_tally(done, time.monotonic() - started)
    sys.exit(any(case.outcome.startswith(DEFECT) for case in done))


def _cases(kills: int) -> Iterator[tuple[Disturbance, int]]:
    """Yields every case with its number."""
    yield from ((kill, n) for n in range(kills))
    yield from ((damaged_result, n) for n in range(2 * len(FILES)))
    for one in (damaged_checkpoint, damaged_plan):
        yield from ((one, n) for n in range(4))
    if os.geteuid() == 0:
        yield from ((full_disk, n) for n in range(6))
    else:
        print("not root: the full disk is left out", file=sys.stderr)
    if shutil.which("cc"):
        yield from ((clock_elsewhere, n) for n in range(6))
    else:
        print("no C compiler: the jumping clock is left out", file=sys.stderr)
    for one in (read_only, file_dates, two_runs):
        yield from ((one, n) for n in range(6))


def _case(ground: Ground, disturb: Disturbance, seed: int) -> Case:
    started = time.monotonic()
    case = Case(disturb.__name__.replace("_", " "), seed)
    try:
        case.outcome = disturb(ground, case)
    except DefectFound as defect:
        case.outcome = f"{DEFECT}: {defect}"
    case.seconds = round(time.monotonic() - started, 2)
    return case


def _print_tally(cases: list[Case], seconds: float) -> None:
    counts = Counter((case.name, case.outcome.partition(":")[0]) for case in cases)
    print()
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:<20} {outcome:<28} {count:>4}")
    defects = sum(case.outcome.startswith(DEFECT) for case in cases)
    print(f"{len(cases)} cases, {defects} defects, {seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
