"""The real libraries, their trainers and their optimizers: our start leaves fewer latents dead than their own.

Each library runs in an environment of its own: `make test-interop` creates them. `-s` shows dead latents before and
after every training.
"""

import json
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import python_of
from tests.diagnosis.conftest import LAYERS
from tests.integrations.stores import STORES

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
LIBRARIES = ["saelens", "dictionary_learning", "sparsify"]
PLANTED = {name: draw for name, draw in LAYERS.items() if name != "nothing wrong"}
HEAD = "library              store            SAE        start        dead before  after  last window  FVU"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Callable[[str], list[Any]]:
    """Gives the trainings of a library, and prints them."""

    @cache
    def train(library: str) -> list[Any]:
        python = python_of(library)
        if python is None:
            pytest.skip(f"{library} is not installed; make test-interop installs it")
        folder = tmp_path_factory.mktemp(library)
        for name, draw in (STORES | PLANTED).items():
            np.save(folder / f"{name}.npy", draw())
        script = Path(__file__).parent / "peers" / f"train_{library}.py"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([python, script, folder], capture_output=True, text=True, timeout=1800, env=environment)
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout.splitlines()[-1])
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("\n" + HEAD, *(_line(library, row) for row in rows), sep="\n")
        return rows

    return train


def _line(library: str, row: dict[str, Any]) -> str:
    return (
        f"{library:20} {row['store']:16} {row['architecture']:10} {row['start']:12} {row['before']:11.1%} "
        f"{row['after']:6.1%} {row['logged']['dead_total']:12.1%} {row['fvu']:6.3f}"
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_a_center_most_latents_are_dead(library: str, outcomes: Callable[[str], list[Any]]) -> None:
    """SAELens has none of its own. The others take one from the first batch; if that is like the rest, it does."""
    rows = {row["start"]: row for row in outcomes(library) if row["store"] == "steady"}
    theirs, ours = rows["theirs"], rows["mean_center"]
    bare = theirs if library == "saelens" else rows["no center"]
    assert bare["before"] > 0.8 < bare["after"], bare
    assert ours["before"] < 0.01, ours
    assert ours["after"] < 0.5, ours
    if bare is not theirs:
        assert theirs["before"] < 0.01, theirs
        assert abs(theirs["after"] - ours["after"]) < 0.05, (theirs, ours)
        assert theirs["fvu"] == pytest.approx(ours["fvu"], rel=0.1), (theirs, ours)


@pytest.mark.parametrize("library", LIBRARIES)
def test_latents_that_a_wrong_center_kills_live(library: str, outcomes: Callable[[str], list[Any]]) -> None:
    theirs, ours = (row for row in outcomes(library) if row["store"] == "shifted")
    assert (theirs["start"], ours["start"]) == ("theirs", "mean_center")
    assert theirs["before"] > 0.8 < theirs["after"], theirs
    assert ours["before"] < 0.01, ours
    assert ours["after"] < 0.5, ours


@pytest.mark.parametrize("library", LIBRARIES)
def test_latents_that_need_whitening_live(library: str, outcomes: Callable[[str], list[Any]]) -> None:
    theirs, ours = (row for row in outcomes(library) if row["store"] == "narrow")
    assert (theirs["start"], ours["start"]) == ("theirs", "pca_whiten")
    assert theirs["before"] > 0.15, theirs
    assert ours["before"] < 0.01, ours
    assert ours["after"] < theirs["after"] - 0.1, (theirs, ours)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_planted_fault_is_gone_before_training(library: str, outcomes: Callable[[str], list[Any]]) -> None:
    """The faults that `saelib diagnose` is tested with; what training makes of them stands in the output."""
    for name in PLANTED:
        theirs, ours = (row for row in outcomes(library) if row["store"] == name)
        assert (theirs["start"], ours["start"] in ("mean_center", "pca_whiten")) == ("theirs", True)
        assert ours["before"] < 0.05, ours
        if library == "saelens":  # the others center by themselves
            assert theirs["before"] > 0.3, theirs


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_log_tells_what_is_dead(library: str, outcomes: Callable[[str], list[Any]]) -> None:
    for row in outcomes(library):
        logged = row["logged"]
        assert abs(logged["dead_relu"] + logged["dead_topk_only"] - logged["dead_total"]) < 1e-9
        if row["start"] in ("theirs", "no center"):
            assert abs(logged["dead_total"] - row["after"]) < 0.1, row
