"""Activations in many files: those in a folder, or those that a pattern such as `acts/*.npy` matches."""

import glob
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from saelib.activations.formats.arrow_columns import is_data_set
from saelib.activations.formats.open_one import SUFFIXES
from saelib.activations.formats.zarr_arrays import is_zarr
from saelib.errors import UserError


def matches(location: str) -> list[Path]:
    """Returns the file or folder of this name, or all that it matches as a pattern, in natural order; may be empty."""
    path = Path(location).expanduser()
    if path.exists():
        return [path]
    return sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural) if glob.has_magic(location) else []


def find_files(location: str) -> tuple[list[Path], list[str]]:
    """Returns the files to open, in natural order, and sentences that say what was found and what is skipped.

    Raises:
        UserError: if nothing is found that can be read, or files of several formats.
    """
    found = matches(location)
    if not found:
        pattern = glob.has_magic(location)
        raise UserError(f"{location}: {'no file matches this pattern' if pattern else 'no such file or folder'}")
    folder = len(found) == 1 and _is_plain_folder(found[0])
    if len(found) == 1 and not folder:
        return found, []
    inside = [path for path in (found[0].iterdir() if folder else found) if not path.name.startswith(".")]
    readable = sorted(filter(_format, inside), key=_natural)
    if not readable:
        raise UserError(f"{location}: holds none of the files that can be read ({', '.join(SUFFIXES)})")
    kinds = Counter(map(_format, readable))
    if len(kinds) > 1:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        suffix = next(path.suffix for path in readable if _format(path) == kinds.most_common(1)[0][0])
        pattern = (f"{location.rstrip('/')}/" if folder else "") + f"*{suffix}"
        raise UserError(f"{location}: files of several formats ({counts}); name those of one, as in '{pattern}'")
    names = f"{readable[0].name} to {readable[-1].name}, one after another"
    notes = [f"{len(readable):,} files, {names}" if len(readable) > 1 else f"1 file, {readable[0].name}"]
    others = [path for path in inside if not _format(path)]
    if others:
        notes.append(f"{len(others):,} other{'s' * (len(others) > 1)} passed over ({_suffixes(others)})")
    return readable, notes


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and path.suffix.lower() != ".zarr" and not is_zarr(path) and not is_data_set(path)


def _format(path: Path) -> str:
    """Returns the suffix that stands for a file's format; '' if the file is not read."""
    if path.is_dir() and (is_zarr(path) or is_data_set(path)):
        return ".zarr" if is_zarr(path) else "data set"
    return path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Returns a sort key by which shard 10 comes after shard 9."""
    words = re.split(r"([0-9]+)", str(path))
    return [(index % 2 == 0, int(word) if index % 2 else 0, word) for index, word in enumerate(words)]


def _suffixes(paths: Iterable[Path]) -> str:
    counts = Counter("folder" if path.is_dir() else path.suffix or "without suffix" for path in paths)
    if counts["folder"] > 1:
        counts["folders"] = counts.pop("folder")
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
