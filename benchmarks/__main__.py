"""Runs the benchmark in the module of the given name: `python -m benchmarks NAME [options]`."""

import importlib
import os
import sys
from pathlib import Path

PACKAGES = {"gpu"}
HELPERS = {"__init__", "__main__", "peers", "timing"}


def main() -> None:
    names = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - HELPERS | PACKAGES)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m benchmarks NAME [--json]; NAME is one of: {', '.join(names)}")
    # A forced kernel type can halve the speed of OpenBLAS. OpenBLAS reads it when numpy is loaded.
    if forced := os.environ.pop("OPENBLAS_CORETYPE", None):
        print(f"OPENBLAS_CORETYPE={forced} is ignored: OpenBLAS uses the CPU's own kernels", file=sys.stderr)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])
    importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])


main()
