"""Reads and writes JSON files that hold a checksum over themselves, so a file with a changed bit counts as missing."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from saelib.errors import UserError
from saelib.files.publish import published_file

Result = TypeVar("Result")


def write_json(path: Path, value: Any) -> None:
    """Publishes `value` as indented JSON, and refuses NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with published_file(path) as draft:
        draft.write_text(text)


def write_result(path: Path, key: str, content: dict[str, Any]) -> None:
    """Publishes a result as JSON, with the key that makes it fresh and a checksum over the file."""
    text = seal(json.dumps({"key": key} | content, indent=1, allow_nan=False))
    with published_file(path) as draft:
        draft.write_text(text)


def read_result(kind: type[Result], path: Path) -> Result:
    """Reads a result as the dataclass `kind` and checks its fields; entries that are not fields are left out.

    Raises:
        UserError: If the file is missing or not JSON, or if a field is missing, has another type or is not finite. The
            message names the file and the field.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # A dataclass takes these settings from the type that holds it.
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    adapter = TypeAdapter(tuple[kind], config=config)  # pyright: ignore[reportInvalidTypeForm]
    text = json.dumps([read_json(path)])
    try:
        return adapter.validate_json(text)[0]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        raise UserError(f"{path}: {field or 'content'}: {first['msg']}") from None


def seal(text: str) -> str:
    """Adds a checksum, as the last entry, to the JSON text of an object that is not empty."""
    body = text[:-1].rstrip()
    return f'{body},\n "checksum": "{_checksum(body)}"\n}}\n'


def unseal(text: str) -> dict[str, Any]:
    """Returns the object that was sealed. Raises `ValueError` if a bit of its text has changed."""
    body, _, end = text.rpartition(',\n "checksum": "')
    if end != f'{_checksum(body)}"\n}}\n':
        raise ValueError("its checksum is wrong")
    return json.loads(body + "}")


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises `UserError` if it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads a sealed file. Raises `UserError` if it is missing or damaged."""
    try:
        return unseal(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error})") from None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
