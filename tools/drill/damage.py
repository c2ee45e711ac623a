"""Damages files by truncation or a flipped bit: results, checkpoints, the plan of a run in progress."""

import os
import random
import re
import shutil
from pathlib import Path

from tools.drill.ground import UNSEEN, Case, DefectFound, Ground, Run, drop
from tools.miniature import Tree

FILES = {
    # Files to damage: their place, and the stage whose result is removed too, so that the file is read.
    "activations": ("extract/*/*.zarr/train/acts/c/*/0", "stats"),
    "held-out activations": ("extract/*/*.zarr/heldout/acts/c/*/0", "init_death"),
    "offset": ("extract/*/*.zarr/offset/c/0", "stats"),
    "store's zarr.json": ("extract/*/*.zarr/zarr.json", "stats"),
    "array's zarr.json": ("extract/*/*.zarr/train/acts/zarr.json", "stats"),
    "statistics": ("stats/*/*.json", "theory"),
    "statistics' arrays": ("stats/*/*.safetensors", "init_death"),
    "init death": ("init_death/*/*.json", "report"),
    "predictions": ("theory/predictions.json", "report"),
    "sweep": ("train/*/*/*/sweep.json", "report"),
    "weights": ("train/*/*/*/weights.safetensors", "report"),
    "history": ("train/*/*/*/history.parquet", "report"),
    "report.json": ("report.json", "theory"),
    "tables": ("tables/*", "theory"),
}


def damaged_result(ground: Ground, case: Case) -> str:
    """Damages a file among finished results, and removes a result that is made from it."""
    kind = list(FILES)[case.seed // 2 % len(FILES)]
    pattern, reader = FILES[kind]
    with ground.copy() as tree:
        path = case.rng.choice(sorted(tree.results.glob(pattern)))
        case.moment = f"{kind}: {path.relative_to(tree.results)} {_damage(path, case)}"
        _drop_readers(tree, path, reader, case.rng)
        return _settle(ground, tree, path)


def damaged_checkpoint(ground: Ground, case: Case) -> str:
    """Kills a training and damages its newest checkpoint before it resumes."""
    with ground.copy() as tree:
        drop(tree, "train", case.rng)
        run = Run(tree)
        step = case.rng.choice((60, 120, 180))
        run.until(lambda: _checkpoints(tree, step))
        run.kill_all()
        path = case.rng.choice(sorted(_checkpoints(tree, step)[-1].glob("*.*")))
        case.moment = f"{path.parent.name}/{path.name} {_damage(path, case)}"
        return ground.settle(tree)


def damaged_plan(ground: Ground, case: Case) -> str:
    """Damages the plan of a run in progress, before its jobs read it."""
    with ground.copy() as tree:
        drop(tree, "stats", case.rng)
        shutil.rmtree(tree.results / "runs")
        run = Run(tree)
        run.until(lambda: list(tree.results.glob("runs/*/plan.json")))
        case.moment = _damage(next(tree.results.glob("runs/*/plan.json")), case)
        if (done := run.end()).returncode:
            done.check_refusal("plan.json")
        case.moment += ": refused" if done.returncode else ": not noticed"
        return ground.settle(tree)


def _damage(path: Path, case: Case) -> str:
    """Truncates a file (even seeds) or flips one of its bits. Returns a description."""
    data = bytearray(path.read_bytes())
    place = case.rng.randrange(len(data))
    if case.seed % 2 == 0:
        path.write_bytes(data[:place])
        return f"cut off after {place} of {len(data)} bytes"
    bit = case.rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} turned over"


def _drop_readers(tree: Tree, path: Path, stage: str, rng: random.Random) -> None:
    """Removes results that are made from the damaged file: the same layer's, or those of the whole suite."""
    of_layer = re.search(r"([^/]+)/(layer_\d+)", str(path.relative_to(tree.results)))
    own = tree.results / stage / of_layer[1] / f"{of_layer[2]}.json" if of_layer else path
    if own.is_file() and own != path:
        own.unlink()
    else:
        drop(tree, stage, rng)


def _settle(ground: Ground, tree: Tree, path: Path) -> str:
    """Works as `Ground.settle`, but a damaged file that saelib never reads may stay as it is."""
    hurt = path.read_bytes()
    try:
        return ground.settle(tree)
    except DefectFound:
        if not path.is_file() or path.read_bytes() != hurt:
            raise
        others = ground.wanted.items() - tree.hashes().items()
        if {name for name, _ in others} != {str(path.relative_to(tree.results))}:
            raise
        return UNSEEN


def _checkpoints(tree: Tree, step: int) -> list[Path]:
    """Returns published checkpoints of at least `step` steps, the newest last."""
    found = [path for path in tree.results.glob("train/*/*/*/checkpoints/*/step_*") if int(path.name[5:]) >= step]
    return sorted(found, key=os.path.getmtime)
