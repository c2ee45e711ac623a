"""Decoding of bytes to text, in one place for every reader: compression, byte order marks, encodings, line ends.

Compression (gzip, bzip2, xz or zstd) is recognized by a file's first bytes, whatever its name. Text is UTF-8, or UTF-16
or UTF-32 if it begins with a byte order mark, which is not part of the text. Lines end with `\\n`, `\\r\\n` or `\\r`.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from saelib.errors import UserError

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # tried before the mark of UTF-16, which is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order mark -> encoding."""
DAMAGE = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
"""The errors of decompression for a damaged or truncated file; pyarrow's errors are ValueErrors or OSErrors."""
CHUNK = 1 << 16
"""Number of bytes that are read at a time."""


def unpacked(raw: io.BufferedReader) -> BinaryIO:
    """Returns the contents of a file as a stream that is decompressed while it is read, which may raise `DAMAGE`."""
    start = raw.peek(10)[:10]
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if re.match(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", start, re.DOTALL):
        return cast(BinaryIO, bz2.BZ2File(raw))
    if start.startswith(b"\xfd7zXZ\0"):
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
    return raw


def read_text(path: Path) -> str:
    """Reads a whole file. Raises `UserError`, with the place of the first bad byte, if it is damaged or not text."""
    return "".join(_of_file(path))


def text_lines(path: Path) -> Iterator[str]:
    """Reads a file line by line, without line ends and without an empty last line. Raises what `read_text` raises."""
    begun: list[str] = []
    for piece in _of_file(path):
        first, *others = piece.split("\n")
        begun.append(first)
        for other in others:
            yield "".join(begun)
            begun = [other]
    if last := "".join(begun):
        yield last


def byte_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Reads lines that need not be text, without line ends: bytes that are not UTF-8 are passed on as they are.

    A stream that begins with a mark of UTF-16 or UTF-32 is converted to UTF-8. Messages call the file `name`.
    """
    head, encoding, offset = _start(stream, name)
    if encoding == "utf-8":
        chunks: Iterable[bytes] = _chunks(stream, head)
    else:
        chunks = (piece.encode() for piece in _decoded(stream, head, encoding, offset, name))
    begun: list[bytes] = []
    held = b""  # a `\r` at the end of a chunk may be the first half of `\r\n`
    for chunk in chunks:
        whole = held + chunk
        held = b"\r" if whole.endswith(b"\r") else b""
        whole = whole.removesuffix(held) if held else whole
        first, *others = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun)
            begun = [other]
    yield b"".join(begun)
    if held:
        yield b""


def unified(text: str) -> str:
    """Normalizes decoded text: no byte order mark, `\\n` as line ends, no lone surrogates.

    Text from Parquet or JSON needs this; the text that `read_text` returns is normalized already.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        # JSON can contain a lone surrogate, which no encoding can write; it becomes the replacement character.
        text = text.lstrip("\ufeff").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _of_file(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as raw:
            stream = unpacked(raw)
            head, encoding, offset = _start(stream, str(path))
            yield from _decoded(stream, head, encoding, offset, str(path))
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # missing permission, or a faulty disk
            raise
        raise UserError(f"{path}: not readable as text, or cut short ({error})") from None


def _start(stream: BinaryIO, name: str) -> tuple[bytes, str, int]:
    """Returns the first bytes after the byte order mark, the encoding, and the length of the mark."""
    head = stream.read(CHUNK)
    mark, encoding = next(((mark, code) for mark, code in MARKS if head.startswith(mark)), (b"", "utf-8"))
    if not mark and (zero := head[:1024].find(b"\0")) >= 0:
        raise UserError(
            f"{name}: not readable as text: byte {zero} is 0, which UTF-8 text does not have; "
            "UTF-16 has to begin with a byte order mark"
        )
    return head[len(mark) :], encoding, len(mark)


def _chunks(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    while head:
        yield head
        head = stream.read(CHUNK)


def _decoded(stream: BinaryIO, chunk: bytes, encoding: str, offset: int, name: str) -> Iterator[str]:
    """Yields the text of `chunk`, which lies at byte `offset`, and of the rest, with `\\n` as line ends."""
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = io.IncrementalNewlineDecoder(decoder, translate=True)
    while True:
        pending = len(decoder.getstate()[0])
        try:
            yield lines.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            shown = error.object[error.start : error.start + 1].hex()
            raise UserError(
                f"{name}: not readable as text: byte {offset - pending + error.start} (0x{shown}) is not "
                f"{encoding[:6].rstrip('-').upper()}; save the file as UTF-8"
            ) from None
        if not chunk:
            return
        offset += len(chunk)
        chunk = stream.read(CHUNK)
