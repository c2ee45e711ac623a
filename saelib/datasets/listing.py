"""Lists the files that a data set reads, out of those that the config names, and counts the rest."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saelib.config.files import FilesConfig, LocalFiles
from saelib.datasets.decoding import PACKED
from saelib.errors import UserError
from saelib.fetch import describe, fetch_paths

log = logging.getLogger(__name__)


@dataclass
class Listing:
    """The files of a data set, and counts of what is left out."""

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Suffix -> number of files in a folder, or matched by a pattern, that are not read."""
    folders: int = 0
    """Number of subfolders, whose files are not read."""

    def summary(self) -> str:
        """Says what is left out: `50 of 53 files are left out: .heic (49), .mov (1)`."""
        parts: list[str] = []
        if count := self.left_out.total():
            parts.append(f"{count} of {count + len(self.files)} files are left out: {suffixes(self.left_out)}")
        if self.folders:
            parts.append(f"{self.folders} folder{'s' * (self.folders > 1)} inside not looked into")
        return "; ".join(parts)


def list_files(
    kind: str, named: Sequence[FilesConfig], reads: Callable[[Path], bool], allowed: str, *, deep: bool = False
) -> Listing:
    """Lists the files that the data set reads, sorted within each folder. Hidden files are ignored.

    Files that are not on this machine are fetched first.

    Args:
        kind: The kind of the data set, for messages.
        named: The files, folders or patterns that the config names.
        reads: Tells by its name whether the data set reads a file.
        allowed: The kinds of files that it reads, for messages.
        deep: Whether files in subfolders are read too.

    Raises:
        UserError: if files cannot be fetched, if none of them can be read, or if a file that the config names by
            itself cannot be read.
    """
    found = Listing()
    for files in named:
        for path in fetch_paths(files):
            inside = _inside(path, found, deep) if path.is_dir() else [path]
            for file in inside:
                if reads(file):
                    found.files.append(file)
                elif file == path and not _is_pattern(files):
                    raise UserError(f"{kind}: {file} is not one of the files that it reads: {allowed}")
                else:
                    found.left_out[suffix_of(file)] += 1
    if not found.files:
        places = "; ".join(describe(files) for files in named)
        there = f"; found: {suffixes(found.left_out)}" if found.left_out else ""
        folders = f"; {found.folders} folders inside are not looked into: name them" if found.folders else ""
        raise UserError(f"{kind}: no {allowed} files in {places or 'an empty list of files'}{there}{folders}")
    if summary := found.summary():
        log.log(logging.WARNING if found.left_out.total() > len(found.files) else logging.INFO, "%s: %s", kind, summary)
    return found


def suffix_of(file: Path) -> str:
    """Returns a file's suffix in lower case, with that of its compression: `.txt.gz`. It is '' if there is none."""
    name = Path(file.name.lower())
    return Path(name.stem).suffix + name.suffix if name.suffix in PACKED else name.suffix


def suffixes(counts: Counter[str]) -> str:
    """Says how often each suffix occurs, the most common first."""
    shown = [f"{suffix or 'no suffix'} ({count:,})" for suffix, count in counts.most_common(8)]
    return ", ".join(shown) + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")


def _is_pattern(files: FilesConfig) -> bool:
    return not isinstance(files, LocalFiles) and any(sign in files.inside for sign in "*?[")


def _inside(folder: Path, found: Listing, deep: bool) -> list[Path]:
    """Returns the visible files of a folder, sorted, and counts the subfolders that are skipped in `found`."""
    visible = [
        path
        for path in sorted(folder.rglob("*") if deep else folder.iterdir())
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not deep:
        found.folders += sum(path.is_dir() for path in visible)
    return [path for path in visible if path.is_file()]
