"""Publishes files and folders whole or not at all: writes next to the target, flushes to disk, renames."""

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
    """Yields a temporary path, whose file replaces `path` when the block ends without an error.

    Raises:
        UserError: If safetensors could not write the file.
    """
    # The draft has its own folder, because some libraries write through temporary files, which a kill leaves behind.
    with _draft_folder(path) as folder:
        draft = folder / path.name
        yield draft
        _finish(draft, _usual_mode(folder))
        os.replace(draft, path)
        _flush(path.parent)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder, which replaces `path` when the block ends without an error.

    A folder cannot replace another in one step. A kill between the two renames leaves no folder at `path` (never half
    of one), so the result counts as missing.

    Raises:
        UserError: If safetensors could not write a file in it.
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
    """Yields a folder next to `path`, which is removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.draft")
    folder.mkdir()
    try:
        yield folder
    except SafetensorError as error:  # raised by safetensors if the disk is full
        raise UserError(f"{path}: could not be written ({error})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_drafts(folder: Path, name: str = "") -> None:
    """Deletes drafts that killed writers left directly inside `folder`, for files whose name starts with `name`."""
    for draft in (*folder.glob(f".{name}*.draft"), *folder.glob(f".{name}*.old")):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _usual_mode(folder: Path) -> int:
    """Returns the mode of a file that is created here in the usual way."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _finish(path: Path, mode: int) -> None:
    """Flushes a file or folder to disk; gives files the usual mode, because safetensors makes them private."""
    if path.is_file():
        path.chmod(mode)
    _flush(path)


def _flush(path: Path) -> None:
    """Forces a file or folder to disk, so that a rename never survives a crash without its contents."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
