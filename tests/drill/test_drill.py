"""The drill sees what it is there to see; a few of its cases. All of them: `make drill`."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.drill.damage import damaged_result
from tools.drill.ground import REFUSED, SAME, UNSEEN, Case, DefectFound, Ended, Ground, named_files
from tools.drill.kills import kill
from tools.drill.surroundings import two_runs
from tools.miniature import Tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the drill looks for processes in /proc")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("drill"))


def test_a_result_that_differs_is_a_defect(ground: Ground) -> None:
    with ground.copy() as tree:
        assert ground.settle(tree) == SAME
        table = tree.results / "tables" / "layers.csv"
        table.write_text(table.read_text().replace("1", "2", 1))
        with pytest.raises(DefectFound, match=r"results differ: tables/layers\.csv$"):
            ground.settle(tree)


def test_so_is_what_a_killed_writer_leaves(ground: Ground) -> None:
    with ground.copy() as tree:
        (tree.results / "stats" / "left.draft").touch()
        with pytest.raises(DefectFound, match=r"results differ: stats/left\.draft$"):
            ground.compare(tree)


@pytest.mark.parametrize(
    ("returncode", "words", "defect"),
    [
        (0, "disk full", "says that it succeeded"),
        (1, "disk full\nTraceback (most recent call last):", "a traceback"),
        (1, "it broke", "no clear sentence: it broke"),
    ],
)
def test_a_refusal_that_is_none_is_a_defect(returncode: int, words: str, defect: str) -> None:
    Ended(1, "disk full").check_refusal("disk full")
    with pytest.raises(DefectFound, match=defect):
        Ended(returncode, words).check_refusal("disk full")


def test_files_are_found_in_the_sentence_that_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "stats"
    folder.mkdir(parents=True)
    files = [folder / "layer_1.safetensors", folder / "layer_1.json"]
    for file in (*files, folder / "layer_2.json"):
        file.touch()
    words = (
        "log: results/stats/layer_2.json\nsaelib: results/stats/layer_1.safetensors: not the one in layer_1.json (x)"
    )
    assert named_files(Tree(tmp_path), words) == files


@pytest.mark.parametrize(
    ("disturb", "seed", "outcome"),
    [
        (kill, 16, SAME),  # the controlling process, in a training
        (two_runs, 2, SAME),
        (damaged_result, 1, REFUSED),  # activations
        (damaged_result, 11, SAME),  # statistics
        (damaged_result, 21, UNSEEN),  # weights of an SAE
    ],
)
def test_cases(ground: Ground, disturb: Callable[[Ground, Case], str], seed: int, outcome: str) -> None:
    assert disturb(ground, Case(disturb.__name__, seed)) == outcome
