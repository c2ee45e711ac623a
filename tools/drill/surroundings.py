"""Disturbances by the machine: a full disk, a folder that cannot be written, a clock that jumps, a second run."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.drill.ground import Case, DefectFound, Ground, Run, drop
from tools.drill.kills import STAGES
from tools.miniature import Tree

YEAR = 365 * 24 * 3600
CLOCK = Path(__file__).with_name("clock.c")
WORK = STAGES[1:]


def full_disk(ground: Ground, case: Case) -> str:
    """Puts the results on a small disk that fills up during a stage; then there is room again."""
    stage = WORK[case.seed % len(WORK)]
    with ground.copy() as tree, _small_disk(tree) as resize:
        before = _used(tree.results)
        drop(tree, stage, case.rng)
        used = _used(tree.results)
        room = int(case.rng.uniform(0, before - used + 16_000))
        resize(used + room)
        done = Run(tree).end()
        case.moment = f"{stage}, {room / 1000:.0f} kB of room{'' if done.returncode else ': it sufficed'}"
        if done.returncode:
            done.check_refusal("No space left on device")
        resize(64 << 20)
        return ground.settle(tree)


def read_only(ground: Ground, case: Case) -> str:
    """Makes the results read-only, all of them or one stage's."""
    stage = WORK[case.seed % len(WORK)]
    with ground.copy() as tree:
        drop(tree, stage, case.rng)
        folder = tree.results / stage if case.seed % 2 and (tree.results / stage).is_dir() else tree.results
        case.moment = f"{stage}, {folder.relative_to(tree.root)}"
        with _without_writing(folder):
            done = Run(tree).end()
            done.check_refusal("Read-only file system", "Permission denied")
            if str(folder.relative_to(tree.root)) not in done.words:
                raise DefectFound("the folder is not named")
        return ground.settle(tree)


def clock_elsewhere(ground: Ground, case: Case) -> str:
    """Runs with a clock that jumps by years, forward or back."""
    stage = WORK[case.seed % len(WORK)]
    first, second = (case.rng.uniform(-5, 5) * YEAR for _ in range(2))
    with ground.copy() as tree:
        drop(tree, stage, case.rng)
        offset, preloaded = tree.root / "clock.txt", tree.root / "clock.so"
        _command("cc", "-shared", "-fPIC", "-o", preloaded, CLOCK)
        offset.write_text(f"{first:.0f}")
        run = Run(tree, {"LD_PRELOAD": str(preloaded), "DRILL_CLOCK": str(offset)})
        wait = case.rng.uniform(1.5, 4)
        case.moment = f"{stage}, {first / YEAR:+.1f} years, after {wait:.1f} s {second / YEAR:+.1f}"
        time.sleep(wait)
        offset.write_text(f"{second:.0f}")
        if (done := run.end()).returncode:
            raise DefectFound(f"the run failed: {done.words[-500:]}")
        ground.compare(tree)
        return ground.settle(tree)


def file_dates(ground: Ground, case: Case) -> str:
    """Gives every input and result its own date, up to ten years away."""
    stage = WORK[case.seed % len(WORK)]
    with ground.copy() as tree:
        drop(tree, stage, case.rng)
        case.moment = stage
        now = time.time()
        for path in sorted(tree.root.rglob("*")):
            if not path.is_symlink() and "__pycache__" not in path.parts:
                date = now + case.rng.uniform(-10, 10) * YEAR
                os.utime(path, (date, date))
        if {job.partition("/")[0] for job in tree.stale()} != {stage}:
            raise DefectFound(f"{stage} was removed, and stale are {tree.stale()}")
        return ground.settle(tree)


def two_runs(ground: Ground, case: Case) -> str:
    """Starts a second run in the same folder, while the first is starting or running."""
    stage = WORK[case.seed % len(WORK)]
    with ground.copy() as tree:
        drop(tree, stage, case.rng)
        gap = case.rng.choice((0, case.rng.uniform(0, 1), case.rng.uniform(1, 4)))
        case.moment = f"{stage}, {gap:.2f} s apart"
        first = Run(tree)
        time.sleep(gap)
        ended = [run.end() for run in (Run(tree), first)]
        failed = [done for done in ended if done.returncode]
        for done in failed:
            done.check_refusal("another run is at work in this folder")
        if len(failed) == 2:
            raise DefectFound("both runs were refused")
        ground.compare(tree)
        case.moment += ": one refused" if failed else ": both ended well"
        return ground.settle(tree)


def _used(folder: Path) -> int:
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


@contextmanager
def _small_disk(tree: Tree) -> Iterator:
    """Moves the results to their own disk. Yields a function that sets its size in bytes."""
    aside = tree.root / "results.aside"
    tree.results.rename(aside)
    tree.results.mkdir()
    _command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tree.results)
    try:
        shutil.copytree(aside, tree.results, dirs_exist_ok=True, symlinks=True)
        yield lambda size: _command("mount", "-o", f"remount,size={size}", tree.results)
    finally:
        _command("umount", "--lazy", tree.results)


@contextmanager
def _without_writing(folder: Path) -> Iterator[None]:
    """Mounts a folder read-only: root may write whatever a folder's mode is, but not to a read-only mount."""
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if path.is_dir()}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield
        for path, mode in modes.items():
            path.chmod(mode)
        return
    _command("mount", "--bind", folder, folder)
    try:
        _command("mount", "-o", "remount,bind,ro", folder)
        yield
    finally:
        _command("umount", "--lazy", folder)


def _command(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)
