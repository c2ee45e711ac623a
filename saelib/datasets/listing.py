"""Which of the files that a config names a data set reads, and what it leaves out."""

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
    """The files of a data set."""

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Suffix -> how many files of a folder, or of what a pattern matches, are not read."""
    folders: int = 0
    """Folders inside a named one, which are not looked into."""

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
    """Lists what the data set reads, sorted within each folder; fetched first if need be. Hidden files do not count.

    Args:
        kind: of the data set, for messages.
        named: what the config names: files, folders, or patterns.
        reads: whether the data set reads a file, by its name.
        allowed: what messages say that it reads.
        deep: whether folders inside a folder are looked into.

    Raises:
        UserError: where files cannot be had, none can be read, or one that is named by itself cannot.
    """
    found = Listing()
    for files in named:
        for path in fetch_paths(files):
            inside = _inside(path, found, deep) if path.is_dir() else [path]
            for file in inside:
                if reads(file):
                    found.files.append(file)
                elif file == path and not _is_pattern(files):
                    raise UserError(f"{kind}: {file} is none of the files that it reads: {allowed}")
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
    """Returns a name's ending in lower case, that of its compression included: `.txt.gz`; '' where there is none."""
    name = Path(file.name.lower())
    return Path(name.stem).suffix + name.suffix if name.suffix in PACKED else name.suffix


def suffixes(counts: Counter[str]) -> str:
    """Says how often each occurs, the commonest first."""
    shown = [f"{suffix or 'no suffix'} ({count:,})" for suffix, count in counts.most_common(8)]
    return ", ".join(shown) + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")


def _is_pattern(files: FilesConfig) -> bool:
    return not isinstance(files, LocalFiles) and any(sign in files.inside for sign in "*?[")


def _inside(folder: Path, found: Listing, deep: bool) -> list[Path]:
    """The visible files of a folder, sorted; counts the folders that are not looked into."""
    visible = [
        path
        for path in sorted(folder.rglob("*") if deep else folder.iterdir())
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not deep:
        found.folders += sum(path.is_dir() for path in visible)
    return [path for path in visible if path.is_file()]
