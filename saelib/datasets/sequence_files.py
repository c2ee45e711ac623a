"""Records of sequence files: FASTA, and the flat files of Swiss-Prot and EMBL, plain or compressed."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saelib.datasets.decoding import DAMAGE, byte_lines, unpacked
from saelib.errors import UserError

NOT_LETTERS = b" \t\r\n\v\f0123456789"
"""Characters between the letters of a flat file."""
REPORT_EVERY = 10_000
"""Number of records between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence as its file has it, in bytes, without blanks, line ends and the letter counts of flat files."""

    id: str
    """FASTA: the header's first word. Flat files: the first accession."""
    accession: str
    """The name that all forms and versions of an entry share: `P12345` for `sp|P12345-2|NAME`; otherwise the id."""
    letters: bytes
    features: int = 0
    """Number of entries in its feature table (FT lines of flat files), which only the evaluation reads."""


def read_records(path: Path, advance: Callable[[int], object] = lambda size: None) -> Iterator[Record]:
    """Reads the records of a file one at a time, recognizing its format and its compression by its content.

    Headers may hold any bytes. An empty file has no records.

    Args:
        path: The file.
        advance: Called now and then with the number of bytes that were read since the last call.

    Raises:
        UserError: if the file is neither FASTA nor a flat file, or is cut short.
    """
    done = 0
    with path.open("rb") as raw:
        try:
            for number, record in enumerate(_records(byte_lines(unpacked(raw), str(path)), path)):
                if number % REPORT_EVERY == 0:
                    advance(raw.tell() - done)
                    done = raw.tell()
                yield record
        except DAMAGE as error:
            raise UserError(f"{path}: not a readable FASTA or flat file, or cut short ({error})") from None
        advance(path.stat().st_size - done)


def _records(lines: Iterable[bytes], path: Path) -> Iterator[Record]:
    """Recognizes the format by the first line that is not blank, and reads the records."""
    numbered = enumerate(lines, 1)
    for number, line in numbered:
        if line.startswith(b">"):
            yield from _fasta(number, line, numbered)
        elif line.startswith(b"ID  "):
            yield from _flat(number, line, numbered, path)
        elif line.strip():
            raise UserError(
                f"{path}: line {number}: FASTA starts with a header '>name', a flat file of Swiss-Prot or EMBL with "
                f"'ID', found '{line.strip()[:30].decode(errors='backslashreplace')}'"
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
    """Reads a flat file, whose lines start with a two-letter code.

    ID and AC name the record, SQ begins its sequence, and // ends it.
    """
    name, accession, wanted, letters = _first_word(first[2:], number), "", None, bytearray()
    features = 0
    for number, line in lines:
        code = line[:2]
        if code == b"  ":
            if wanted is not None:
                letters += line.translate(None, NOT_LETTERS)
        elif code == b"AC" and not accession:
            accession = _first_word(line[2:], number).strip(".")  # '.' if there is none
        elif code == b"FT":
            features += line[5:6] not in (b"", b" ")  # an entry's further lines begin with blanks
        elif code == b"SQ":
            length = re.search(rb"(\d+) (AA|BP);", line)
            wanted = int(length[1]) if length else -1
        elif code == b"//":
            if wanted is not None and wanted not in (-1, len(letters)):
                raise UserError(f"{path}: line {number}: {name} has {len(letters)} letters, its SQ line says {wanted}")
            yield Record(accession or name, accession or name, bytes(letters).upper(), features)
            name, accession, wanted, letters, features = "", "", None, bytearray(), 0
        elif code == b"ID":
            if name:
                raise UserError(f"{path}: line {number}: a new record starts, but {name} has not ended with '//'")
            name = _first_word(line[2:], number)
    if name:
        raise UserError(f"{path}: cut short: its last record, {name}, does not end with '//'")


def _first_word(line: bytes, number: int) -> str:
    words = line.split(maxsplit=1)
    if not words:
        return f"line-{number}"
    try:
        return words[0].decode().rstrip(";")
    except UnicodeDecodeError:  # Latin-1 gives every byte a letter
        return words[0].decode("latin-1").rstrip(";")


def _accession(name: str) -> str:
    """Returns the accession in a header of UniProt or ENA; isoforms (`-2`) of a protein share one accession."""
    found = re.match(r"(sp|tr|ENA|EMBL)\|([^|]+)", name)
    if not found:
        return name
    return re.sub(r"-\d+$", "", found[2]) if found[1] in ("sp", "tr") else found[2]
