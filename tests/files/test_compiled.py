"""An update of saelib finds in its cache what the version before left there."""

import subprocess
import sys
from pathlib import Path

SOURCE = """
import hashlib
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from saelib.files.compiled import compiled_from


class {name}(NamedTuple):
    values: np.ndarray


def twice(given: {name}) -> float:
    return {factor} * given.values.sum()


kernel = compiled_from(numba.njit(cache=True)(twice), hashlib.sha256(Path(__file__).read_bytes()).hexdigest())
print(kernel({name}(np.ones(3))), sum(kernel.stats.cache_hits.values()))
"""


def run(file: Path, name: str, factor: float) -> str:
    file.write_text(SOURCE.format(name=name, factor=factor))
    # As a module, because classes of the file that is run are found under another name.
    command = [sys.executable, "-c", f"import {file.stem}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=file.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_class_that_was_renamed_does_not_break_what_is_kept_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "kernels_of_a_test.py"
    assert run(file, "Kept", 2.0) == "6.0 0"
    assert run(file, "Kept", 2.0) == "6.0 1"
    assert run(file, "DeadPreActivations", 3.0) == "9.0 0"
    assert run(file, "DeadPreActivations", 3.0) == "9.0 1"
