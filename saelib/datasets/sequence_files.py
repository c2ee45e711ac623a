"""Records of sequence files: FASTA, and the flat files of Swiss-Prot and EMBL, plain or gzipped."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saelib.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
NOT_LETTERS = b" \t\r\n\v\f0123456789"
"""What stands between the letters of a flat file."""
REPORT_EVERY = 10_000
"""Records between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence as its file has it, in ASCII; blanks, line ends and the counts of flat files are gone."""

    id: str
    """FASTA: the header's first word. Flat files: the first accession."""
    accession: str
    """What forms and versions of one entry share: `P12345` of `sp|P12345-2|NAME`; else the id."""
    letters: bytes


def read_records(path: Path, advance: Callable[[int], object] = lambda size: None) -> Iterator[Record]:
    """The records of a file, one at a time; its content tells which format it has, and whether it is gzipped.

    `advance` is told now and then how many more bytes of the file have been read.

    Raises:
        UserError: where the file is neither FASTA nor a flat file, or not whole.
    """
    done = 0
    with path.open("rb") as raw:
        zipped = raw.peek(2)[:2] == GZIP_MAGIC  # pyright: ignore[reportAttributeAccessIssue]
        lines = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            for number, record in enumerate(_records(lines, path)):
                if number % REPORT_EVERY == 0:
                    advance(raw.tell() - done)
                    done = raw.tell()
                yield record
        except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: not a readable FASTA or flat file, or cut short ({error})") from None
        advance(raw.tell() - done)


def _records(lines: Iterable[bytes], path: Path) -> Iterator[Record]:
    """Look at the first line that is not blank and read on in its format."""
    numbered = enumerate(lines, 1)
    for number, line in numbered:
        if line.startswith(b">"):
            yield from _fasta(number, line, numbered)
        elif line.startswith(b"ID  "):
            yield from _flat(number, line, numbered, path)
        elif line.strip():
            raise UserError(
                f"{path}: line {number}: FASTA starts with a header '>name', a flat file of Swiss-Prot or EMBL with "
                f"'ID', found {line.decode().strip()[:30]!r}"
            )


def _fasta(number: int, header: bytes, lines: Iterable[tuple[int, bytes]]) -> Iterator[Record]:
    name, letters = _first_word(header[1:], number), bytearray()
    for number, line in lines:
        if line.startswith(b">"):
            yield Record(name, _accession(name), bytes(letters))
            name, letters = _first_word(line[1:], number), bytearray()
        else:
            letters += b"".join(line.split())
    yield Record(name, _accession(name), bytes(letters))


def _flat(number: int, first: bytes, lines: Iterable[tuple[int, bytes]], path: Path) -> Iterator[Record]:
    """Lines start with a two-letter code: ID and AC name the record, SQ opens the sequence and // ends it."""
    name, accession, wanted, letters = _first_word(first[2:], number), "", None, bytearray()
    for number, line in lines:
        code = line[:2]
        if code == b"  ":
            if wanted is not None:
                letters += line.translate(None, NOT_LETTERS)
        elif code == b"AC" and not accession:
            accession = _first_word(line[2:], number).strip(".")  # '.' where there is none
        elif code == b"SQ":
            length = re.search(rb"(\d+) (AA|BP);", line)
            wanted = int(length[1]) if length else -1
        elif code == b"//":
            if wanted is not None and wanted not in (-1, len(letters)):
                raise UserError(f"{path}: line {number}: {name} has {len(letters)} letters, its SQ line says {wanted}")
            yield Record(accession or name, accession or name, bytes(letters).upper())
            name, accession, wanted, letters = "", "", None, bytearray()
        elif code == b"ID":
            if name:
                raise UserError(f"{path}: line {number}: a new record starts, but {name} has not ended with '//'")
            name = _first_word(line[2:], number)
    if name:
        raise UserError(f"{path}: cut short: its last record, {name}, does not end with '//'")


def _first_word(line: bytes, number: int) -> str:
    words = line.decode().split(maxsplit=1)
    return words[0].rstrip(";") if words else f"line-{number}"


def _accession(name: str) -> str:
    """Of UniProt's and ENA's headers; isoforms (`-2`) of a protein share one."""
    found = re.match(r"(sp|tr|ENA|EMBL)\|([^|]+)", name)
    if not found:
        return name
    return re.sub(r"-\d+$", "", found[2]) if found[1] in ("sp", "tr") else found[2]
