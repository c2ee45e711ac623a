"""The workflow runs from any folder, and its results lie where the config says, seen from there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.miniature import Tree

LOST = "init_death/calm/layer_1.json"


@pytest.fixture
def clone(edited: Tree, tmp_path: Path) -> Tree:
    """A clone in a folder of the name that `git clone` gives it, whose own code is told apart by what its jobs log."""
    edited.root.rename(tmp_path / "saelib")
    tree = Tree(tmp_path / "saelib")
    jobs = tree.root / "saelib" / "pipeline" / "jobs.py"
    text = jobs.read_text()
    old = "    started = time.monotonic()\n"
    assert old in text
    jobs.write_text(text.replace(old, f'{old}    log.info("this is the clone\'s own code")\n'))
    return tree


def moved_out(tree: Tree, work: Path, results: str = "results") -> None:
    """Put a suite's data, config and results, one of which is lost, into a folder of its own."""
    work.mkdir()
    config = tree.config | {"results": results}
    (tree.root / "workflow_config.yaml").unlink()
    Tree(work).config = config
    (work / "workflow_config.yaml").rename(work / "mine.yaml")
    (tree.root / "arrays").rename(work / "arrays")
    (work / results).parent.mkdir(parents=True, exist_ok=True)
    tree.results.rename(work / results)
    (work / results / LOST).unlink()
    shutil.rmtree(tree.root / ".snakemake")


def run(folder: Path, *arguments: object) -> str:
    # As people do: saelib is found without a PYTHONPATH, or not at all.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nocolor", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def check(tree: Tree, finished: Tree, results: Path, before: set[Path]) -> None:
    """The lost result is there again, bit by bit, made by the clone, in whose folder nothing was written."""
    assert (results / LOST).read_bytes() == (finished.results / LOST).read_bytes()
    logs = [log.read_text() for log in results.glob("runs/*/logs/init_death/calm/layers_1-1.log")]
    assert len(logs) == 1
    assert "this is the clone's own code" in logs[0]
    assert files(tree) == before


def files(tree: Tree) -> set[Path]:
    return {path for path in tree.root.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("name", ["work", "größere Arbeit (2)"])
def test_from_another_folder(clone: Tree, finished: Tree, tmp_path: Path, name: str) -> None:
    work = tmp_path / name
    moved_out(clone, work)
    before = files(clone)
    run(work, "-s", clone.root / "Snakefile", "--configfile", "mine.yaml")
    check(clone, finished, work / "results", before)
    assert "Nothing to be done" in run(work, "-s", clone.root / "Snakefile", "--configfile", "mine.yaml", "-n")


def test_from_the_folder_that_holds_the_clone_with_directory(clone: Tree, finished: Tree, tmp_path: Path) -> None:
    # Python takes ./saelib, the clone, for an empty package there.
    work = tmp_path / "work"
    moved_out(clone, work)
    before = files(clone)
    run(tmp_path, "-s", "saelib/Snakefile", "--directory", "work", "--configfile", "work/mine.yaml")
    check(clone, finished, work / "results", before)


def test_results_in_a_place_of_their_own(clone: Tree, finished: Tree, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moved_out(clone, work, results=str(tmp_path / "große Platte" / "my results"))
    before = files(clone)
    run(work, "-s", clone.root / "Snakefile", "--configfile", "mine.yaml")
    check(clone, finished, tmp_path / "große Platte" / "my results", before)
    assert not (work / "results").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="makes a file system read-only")
def test_from_a_clone_that_cannot_be_written(clone: Tree, finished: Tree, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moved_out(clone, work)
    before = files(clone)
    if subprocess.run(["mount", "--bind", "-o", "ro", clone.root, clone.root], capture_output=True).returncode:
        pytest.skip("only root may make a file system read-only, and root may write to files of any mode")
    try:
        run(work, "-s", clone.root / "Snakefile", "--configfile", "mine.yaml")
    finally:
        subprocess.run(["umount", clone.root], check=True)
    check(clone, finished, work / "results", before)


def test_a_folder_without_a_suite_says_where_it_looked(clone: Tree, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "snakemake", "-n", "-s", str(clone.root / "Snakefile")]
    done = subprocess.run(command, cwd=tmp_path / "empty", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"no workflow_config.yaml in the working folder {tmp_path / 'empty'}" in done.stdout + done.stderr
    assert "--configfile" in done.stdout + done.stderr
