"""Protein or nucleotide sequences, whole or in windows."""

import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase

from saelib.config.datasets import Sequences as SequencesConfig
from saelib.datasets.base import Example, Split, keyed_hash, split_by_group
from saelib.datasets.listing import Listing, list_files
from saelib.datasets.sequence_files import Record, read_records
from saelib.errors import UserError
from saelib.progress import progress

log = logging.getLogger(__name__)

ALPHABETS = {"protein": "ACDEFGHIKLMNPQRSTVWY", "dna": "ACGT"}
LETTERS = f"{ascii_uppercase}*".encode()
"""Upper case; `*` stands for a stop."""
SEGMENT = 50_000
"""Number of letters of a chromosome that form one group, so that held-out windows come from other parts of it."""
COUNTS = {
    "files": "files without a record",
    "records": "records read",
    "empty": "empty",
    "same id": "with the id of an earlier one",
    "lower": "with lower-case letters, which became upper case",
    "gaps": "with gaps ('-', '.'), which were removed",
    "examples": "examples",
    "partly unknown": "examples among them with some letters outside the alphabet",
    "unknown": "left out for letters outside the alphabet",
    "repeated": "left out because an earlier one has the same letters",
    "annotated": "with a feature table, which the model does not see (evaluation.labels can read it)",
    "features": "entries in these tables",
    "short": "records and windows left out because they are shorter than min_length",
    "rests": "ends of records left out because they are shorter than half a window",
    "not drawn": "not drawn",
}
"""Key of a count -> its description in the log."""


def listing(config: SequencesConfig) -> Listing:
    """Lists the files, whatever their names. Raises `UserError` if there are none."""
    return list_files("sequences", config.files, lambda file: True, "sequence")


def open_dataset(config: SequencesConfig) -> "Sequences":
    """Fetches the files if necessary and reads them. The records that are kept stay in memory, one byte per letter.

    Raises:
        UserError: if a file cannot be fetched or is not a sequence file, or if no example is left.
    """
    return Sequences(listing(config).files, config)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a record that is one example."""

    record: Record
    start: int
    stop: int
    number: int
    """Number of earlier records with this id."""

    @property
    def group(self) -> str:
        """The record's accession, or a 50 kb segment of a longer record."""
        long = len(self.record.letters) > SEGMENT and self.stop - self.start < len(self.record.letters)
        return f"{self.record.accession}:{self.start // SEGMENT}" if long else self.record.accession

    def letters(self) -> bytes:
        """Returns a copy of the piece's letters."""
        return self.record.letters[self.start : self.stop]


class Sequences:
    """Windows of records, or whole records. With `sample`, the seed draws which records are used."""

    def __init__(self, paths: list[Path], config: SequencesConfig) -> None:
        """Reads the files at `paths` now or, with `sample`, as soon as the seed is known.

        The order of the files decides the order of the examples before they are shuffled.
        """
        self._paths, self._config = paths, config
        self._name = f"sequences ({', '.join(path.name for path in paths[:3])}{', ...' if len(paths) > 3 else ''})"
        self._known = ALPHABETS[config.alphabet].encode()
        self.counts: Counter[str] = Counter()
        """Counts of the last reading; the keys are those of `COUNTS`."""
        self._seed = 0
        self._pieces = [] if config.sample else self._read(0)

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields the examples of a split (see `Dataset.examples`)."""
        if self._config.sample and (seed != self._seed or not self._pieces):
            self._seed, self._pieces = seed, self._read(seed)
        groups = [piece.group for piece in self._pieces]
        for piece in split_by_group(self._pieces, groups, split, seed, heldout_fraction, self._name):
            name = f"{piece.record.id}#{piece.number + 1}" if piece.number else piece.record.id
            span = f":{piece.start}-{piece.stop}" if self._config.window else ""
            yield Example(name + span, piece.group, piece.letters().decode())

    def _read(self, seed: int) -> list[Piece]:
        """Reads all pieces that are examples. A seed draws the same records whatever their order in the files."""
        self.counts = Counter()
        records: Iterator[Record] | list[Record] = self._records()
        if self._config.sample:
            # One pass holds only `sample` records: those that a hash keyed by the seed ranks first.
            records = heapq.nsmallest(self._config.sample, records, key=lambda record: _rank(seed, record))
            usable = self.counts["records"] - self.counts["empty"] - self.counts["unknown"]
            self.counts["not drawn"] = usable - len(records)
        pieces = list(self._distinct(records))
        self.counts["examples"] = len(pieces)
        self.counts = +self.counts  # without zeros
        log.info(
            "%s: %s", self._name, ", ".join(f"{self.counts[key]} {COUNTS[key]}" for key in COUNTS if self.counts[key])
        )
        if not self.counts["records"]:
            raise UserError(f"{self._name}: is empty: no record in its {self.counts['files']} file(s)")
        if not pieces:
            raise UserError(
                f"{self._name}: no example is left of {self.counts['records']} records ({self.counts['empty']} empty, "
                f"{self.counts['unknown']} with too many letters outside {self._config.alphabet} "
                f"'{self._known.decode()}', {self.counts['short']} too short); check alphabet, raise max_unknown (now "
                f"{self._config.max_unknown}), or lower min_length (now {self._config.min_length})"
            )
        return pieces

    def _records(self) -> Iterator[Record]:
        """Yields the records that may give examples, in upper case and without gaps."""
        size = sum(path.stat().st_size for path in self._paths)
        with progress("read sequences", size, "bytes", log) as advance:
            for path in self._paths:
                before = self.counts["records"]
                for record in read_records(path, advance):
                    self.counts["records"] += 1
                    self.counts["annotated"] += record.features > 0
                    self.counts["features"] += record.features
                    letters = self._plain_letters(record, path)
                    if not letters:
                        self.counts["empty"] += 1
                    elif self._config.window or self._is_known(letters):
                        yield replace(record, letters=letters)
                self.counts["files"] += self.counts["records"] == before

    def _plain_letters(self, record: Record, path: Path) -> bytes:
        letters = record.letters
        if not letters.isupper():
            letters = letters.upper()
            self.counts["lower"] += letters != record.letters
        if b"-" in letters or b"." in letters:
            letters = letters.translate(None, b"-.")
            self.counts["gaps"] += 1
        if strange := letters.translate(None, LETTERS):
            raise UserError(f"{path}: record '{record.id}': {_shown(strange)} is not a letter of a sequence")
        return letters.removesuffix(b"*")

    def _distinct(self, records: Iterator[Record] | list[Record]) -> Iterator[Piece]:
        """Cuts the records and leaves out repeats of earlier pieces, so that no piece is in both splits."""
        seen: set[bytes] = set()
        ids: Counter[str] = Counter()
        for record in records:
            self.counts["same id"] += record.id in ids
            for start, stop in self._spans(len(record.letters)):
                piece = Piece(record, start, stop, ids[record.id])
                letters = piece.letters()
                if self._config.window and not self._is_known(letters):
                    continue
                digest = hashlib.blake2b(letters, digest_size=16).digest()
                if digest in seen:
                    self.counts["repeated"] += 1
                    continue
                seen.add(digest)
                yield piece
            ids[record.id] += 1

    def _spans(self, length: int) -> Iterator[tuple[int, int]]:
        """Yields consecutive windows, or the whole record. A remainder shorter than half a window is dropped."""
        window = self._config.window or length
        for start in range(0, length, window):
            stop = min(start + window, length)
            if start and 2 * (stop - start) < window:
                self.counts["rests"] += 1
            elif stop - start < (self._config.min_length or 0):
                self.counts["short"] += 1
            else:
                yield start, stop

    def _is_known(self, letters: bytes) -> bool:
        unknown = len(letters.translate(None, self._known))
        if unknown > self._config.max_unknown * len(letters):
            self.counts["unknown"] += 1
            return False
        self.counts["partly unknown"] += unknown > 0
        return True


def _shown(letters: bytes) -> str:
    """Returns the first of these letters, as messages show it."""
    return f"'{letters[:1].decode()}'" if letters[:1].isascii() else f"the byte 0x{letters[:1].hex()}"


def _rank(seed: int, record: Record) -> tuple[int, bytes]:
    """Returns a pseudo-random rank, which two records share only if they are equal."""
    return keyed_hash(seed, record.id), hashlib.blake2b(record.letters, digest_size=16).digest()
