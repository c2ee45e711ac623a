"""Protein or nucleotide sequences from FASTA files, plain or gzipped."""

import gzip
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from saelib.config.datasets import Sequences as SequencesConfig
from saelib.datasets.base import Example, Split, split_by_group
from saelib.errors import UserError
from saelib.fetch import fetch_files

log = logging.getLogger(__name__)

ALPHABETS = {"protein": "ACDEFGHIKLMNPQRSTVWY", "dna": "ACGT"}
SEGMENT = 50_000
"""Letters of a chromosome that are one group: held-out windows then come from other parts of it."""


def open_dataset(config: SequencesConfig) -> "Sequences":
    """Read the files, which are fetched first if need be; the kept sequences are held in memory, a byte a letter.

    Raises:
        UserError: for files that cannot be had or are not FASTA, or where no example is left.
    """
    return Sequences([path for files in config.files for path in fetch_files(files)], config)


class Sequences:
    """Windows of records, or whole records. One group a record, or a 50 kb segment of a longer record."""

    def __init__(self, paths: list[Path], config: SequencesConfig) -> None:
        """`paths`: FASTA files, whose order decides that of the examples before they are shuffled."""
        self._name = f"sequences ({', '.join(path.name for path in paths)})"
        self._pieces: list[Example] = []
        self.counts: Counter[str] = Counter()
        """'records', 'examples', and what was left out: 'empty' records, examples with too many 'unknown' letters
        or 'repeated' ones, whose letters an earlier example has too."""
        seen: set[str] = set()
        for path in paths:
            for record, letters in read_fasta(path):
                self.counts["records"] += 1
                self.counts["empty"] += not letters
                for piece in _cut(record, letters, config.window):
                    self._add(piece, config, seen)
        log.info("%s: %s", self._name, ", ".join(f"{count} {what}" for what, count in self.counts.items()))
        if not self._pieces:
            raise UserError(
                f"{self._name}: no example is left of {self.counts['records']} records ({self.counts['empty']} empty, "
                f"{self.counts['unknown']} with too many letters outside {config.alphabet} "
                f"'{ALPHABETS[config.alphabet]}'); check alphabet, or raise max_unknown (now {config.max_unknown})"
            )

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """See `Dataset.examples`."""
        groups = [piece.group for piece in self._pieces]
        yield from split_by_group(self._pieces, groups, split, seed, heldout_fraction, self._name)

    def _add(self, piece: Example, config: SequencesConfig, seen: set[str]) -> None:
        letters = str(piece.content)
        known = sum(map(letters.count, ALPHABETS[config.alphabet]))
        if len(letters) - known > config.max_unknown * len(letters):
            self.counts["unknown"] += 1
        elif letters in seen:
            # The same protein in two records, or a repeat in a genome, would stand in both splits.
            self.counts["repeated"] += 1
        else:
            seen.add(letters)
            self.counts["examples"] += 1
            self._pieces.append(piece)


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Records as (id, letters): the header's first word; upper case, no blanks, no '*' that marks a protein's end.

    Raises:
        UserError: where the file is not FASTA, or not whole.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            yield from _records(lines, path)
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a readable FASTA file ({error})") from None


def _records(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    record: str | None = None
    parts: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(">"):
            if record is not None:
                yield record, _letters(parts)
            words = line[1:].split()
            record, parts = words[0] if words else f"line-{number}", []
        elif record is not None:
            parts.append(line)
        elif line.strip():
            raise UserError(f"{path}: line {number}: FASTA starts with a header '>name', found {line.strip()[:30]!r}")
    if record is not None:
        yield record, _letters(parts)


def _letters(parts: list[str]) -> str:
    return re.sub(r"\s+", "", "".join(parts)).upper().removesuffix("*")


def _cut(record: str, letters: str, window: int | None) -> Iterator[Example]:
    """Consecutive windows, or the whole record. A rest shorter than half a window is dropped."""
    if window is None:
        if letters:
            yield Example(record, record, letters)
        return
    long = len(letters) > SEGMENT
    for start in range(0, len(letters), window):
        piece = letters[start : start + window]
        if start and 2 * len(piece) < window:
            return
        group = f"{record}:{start // SEGMENT}" if long else record
        yield Example(f"{record}:{start}-{start + len(piece)}", group, piece)
