"""Files that appear whole or not at all: write beside the target, flush to disk, rename."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from saelib.errors import UserError


@contextmanager
def published_file(path: Path) -> Iterator[Path]:
    """Give a temporary path near `path`; it takes the place of `path` when the block ends without an error.

    Raises:
        UserError: where safetensors could not write it.
    """
    # In a folder of its own, because some libraries write through temporary files of theirs, which a kill leaves.
    with _draft_folder(path) as folder:
        draft = folder / path.name
        yield draft
        _finish(draft, _usual_mode(folder))
        os.replace(draft, path)
        _flush(path.parent)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder; it takes the place of `path` when the block ends without an error.

    A folder cannot replace another in one step: a kill between the two renames leaves no folder at `path`
    (never half of one), which readers take for a missing result.

    Raises:
        UserError: where safetensors could not write a file in it.
    """
    with _draft_folder(path) as draft:
        old = draft.with_suffix(".old")
        try:
            yield draft
            mode = _usual_mode(draft)
            for file in draft.rglob("*"):
                _finish(file, mode)
            if path.exists():
                os.rename(path, old)
            os.rename(draft, path)
            _flush(path.parent)
        finally:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _draft_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.draft")
    folder.mkdir()
    try:
        yield folder
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise UserError(f"{path}: could not be written ({error})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_drafts(folder: Path, name: str = "") -> None:
    """Delete what killed writers left directly inside `folder`: of every file and folder whose name starts so."""
    for draft in (*folder.glob(f".{name}*.draft"), *folder.glob(f".{name}*.old")):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _usual_mode(folder: Path) -> int:
    """Who may read a file that is simply made here."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _finish(path: Path, mode: int) -> None:
    """Flush to disk; a file for whom files are usually: safetensors makes its own for their owner alone."""
    if path.is_file():
        path.chmod(mode)
    _flush(path)


def _flush(path: Path) -> None:
    """Force a file or folder to disk, so that a rename never outlives its contents in a crash."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
