"""Reads a few settings from the metadata of a GGUF file, without loading the model."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its format character in `struct`; type 8 is text, 9 an array."""
TEXT, ARRAY = 8, 9


def read_gguf(path: Path, wanted: frozenset[str]) -> dict[str, Any]:
    """Returns the wanted settings by the last part of their names: `llama.block_count` is `block_count`.

    Reading stops at the last of them, before the tokenizer, which would take seconds.

    Raises:
        ValueError: If the file is not GGUF, or is cut short.
    """
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        try:
            for key, value in _settings(file):
                name = key.rpartition(".")[2]
                if name in wanted:
                    found[name] = value
                if found.keys() == wanted:
                    break
        except (struct.error, RecursionError):
            raise ValueError(f"{path}: a GGUF file that is cut short or broken") from None
    return found


def _settings(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version < 2:
        raise ValueError(f"{file.name}: no GGUF file of version 2 or later")
    for _ in range(count):
        key = _text(file)
        yield key, _value(file, _next(file, "I"))


def _value(file: BinaryIO, kind: int) -> Any:
    """Reads the next value. Arrays are skipped and read as None, because none of the settings is one."""
    if kind == TEXT:
        return _text(file)
    if kind != ARRAY:
        return _next(file, _number(file, kind))
    kind, count = _next(file, "I"), _next(file, "Q")
    if kind in (TEXT, ARRAY):
        for _ in range(count):
            _value(file, kind)
    else:
        file.seek(count * struct.calcsize(_number(file, kind)), 1)
    return None


def _number(file: BinaryIO, kind: int) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"{file.name}: holds a value of type {kind}, which GGUF does not have")
    return NUMBERS[kind]


def _text(file: BinaryIO) -> str:
    length = _next(file, "Q")
    text = file.read(min(length, 2**24))
    if len(text) < length:
        raise ValueError(f"{file.name}: a GGUF file that is cut short")
    return text.decode(errors="replace")


def _next(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]
