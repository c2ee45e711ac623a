"""Columns of lists: .parquet, .arrow, and data sets that Hugging Face's `datasets` saved (as SAELens caches them)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.formats.found import Found, choose, damaged, mapped, scratch_file
from saelib.errors import UserError

COPIED_AT_ONCE = 1 << 24
"""Bytes of a .parquet file's column that are unpacked at a time."""


def open_parquet(path: Path, member: str) -> Found:
    """Unpacks a column of a .parquet file into a scratch file and maps that.

    The pages of a .parquet file are compressed, so that a row in the middle cannot be read by itself.
    """
    import pyarrow.parquet as parquet

    with _errors(path), parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
        column = _choose(file.schema_arrow, member, path)
        rows = file.metadata.num_rows
        if rows == 0:
            return Found((0, 0), "float32", True, lambda start, stop: np.empty(0, np.float32))
        first = _dense(next(file.iter_batches(1, columns=[column])).column(0), path, 0)
        shape = (rows, *first.shape[1:])
        at_once = max(1, COPIED_AT_ONCE // max(1, first.nbytes))
        start = 0
        with scratch_file(path, first.nbytes * rows) as copy:
            for batch in file.iter_batches(at_once, columns=[column]):
                values = _dense(batch.column(0), path, start, shape[1:])
                copy.write(values.astype(first.dtype, copy=False).tobytes())
                start += len(values)
            whole = mapped(copy, first.dtype, shape)
    return Found(shape, first.dtype.name, first.dtype.kind == "f", lambda start, stop: whole[start:stop])


def open_arrow(path: Path, member: str) -> Found:
    """Opens a column of an .arrow file (Feather 2, or a stream as `datasets` writes it), to be read in place."""
    with _errors(path):
        return _column(_table(path), member, path)


def is_data_set(folder: Path) -> bool:
    """Tells whether the library `datasets` saved this folder (`save_to_disk`)."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def open_data_set(path: Path, member: str) -> Found:
    """Opens a column of a saved data set, to be read in place.

    A data set with several splits is a folder of folders; each split is opened by its own name.
    """
    import pyarrow as pa

    if not (path / "state.json").is_file():
        splits = sorted(one.name for one in path.iterdir() if (one / "state.json").is_file())
        example = f"; name one, as in {path}/{splits[0]}" if splits else ""
        raise UserError(f"{path}: is a data set of {len(splits)} splits ({', '.join(splits) or 'none'}){example}")
    with _errors(path):
        state = json.loads((path / "state.json").read_text())
        files = [str(one["filename"]) for one in state["_data_files"]]
    if state.get("_indices_data_files"):
        raise UserError(f"{path}: its rows are selected by a list of indices; save it again after flatten_indices()")
    if any(Path(name).name != name for name in files):
        raise UserError(f"{path}: state.json names files outside of its folder")
    absent = [name for name in files if not (path / name).is_file()]
    if absent:
        raise UserError(f"{path}: {len(absent)} of its {len(files)} files are missing; the first is {absent[0]}")
    with _errors(path):
        return _column(pa.concat_tables([_table(path / name) for name in files]), member, path)


def _table(path: Path) -> Any:
    """Maps a table without loading it."""
    import pyarrow as pa

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    source = pa.memory_map(str(path))
    return pa.ipc.open_file(source).read_all() if is_file else pa.ipc.open_stream(source).read_all()


def _column(table: Any, member: str, path: Path) -> Found:
    column = table.column(_choose(table.schema, member, path))
    if len(column) == 0:
        return Found((0, 0), "float32", True, lambda start, stop: np.empty(0, np.float32))
    first = _dense(column.slice(0, 1).chunk(0), path, 0)

    def read(start: int, stop: int) -> NDArray[Any]:
        parts, at = [], start
        for chunk in column.slice(start, stop - start).chunks:
            parts.append(_dense(chunk, path, at, first.shape[1:]))
            at += len(chunk)
        return np.concatenate(parts)

    return Found((len(column), *first.shape[1:]), first.dtype.name, first.dtype.kind == "f", read)


def _choose(schema: Any, member: str, path: Path) -> str:
    """Returns the column to read; lists of integers, such as token ids, are skipped unless they are asked for."""
    import pyarrow.types as types

    leaves = {field.name: _leaf(field.type) for field in schema}
    if member in leaves:
        if leaves[member] is None:
            kind = schema.field(member).type
            raise UserError(f"{path}: column '{member}' holds {kind}; should hold lists of numbers")
        return member
    wanted = [name for name, leaf in leaves.items() if leaf is not None and types.is_floating(leaf)]
    if not wanted and not member:
        single = sum(types.is_floating(field.type) for field in schema)
        hint = "; one column per dimension cannot be read, save one column of lists" if single > 1 else ""
        raise UserError(f"{path}: none of its {len(leaves)} columns holds lists of floating-point numbers{hint}")
    return choose(wanted, member, path)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _leaf(kind: Any) -> Any:
    """Returns the type of the numbers in a column of lists (or of lists of lists); None for any other column."""
    kind = getattr(kind, "storage_type", kind)
    if not _is_list(kind):
        return None
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _dense(values: Any, path: Path, row: int, inner: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Turns lists of equal length into one numpy array.

    Args:
        values: an arrow array of lists, which may themselves hold lists.
        path: the file, for messages.
        row: the file's row at which `values` starts, for messages.
        inner: the lengths that the lists should have; None takes those of the first row.

    Raises:
        UserError: for empty cells, and for lists of different lengths.
    """
    import pyarrow.types as types

    values = getattr(values, "storage", values)
    shape, per_row = [len(values)], 1
    while _is_list(values.type):
        if values.null_count:
            raise UserError(f"{path}: row {row + _first_null(values) // per_row} is empty; should hold numbers")
        if types.is_fixed_size_list(values.type):
            length, values = values.type.list_size, values.flatten()
        else:
            lengths = np.diff(values.offsets.to_numpy())
            length = int(lengths[0]) if inner is None else inner[len(shape) - 1]
            odd = np.flatnonzero(lengths != length)
            if len(odd):
                raise UserError(
                    f"{path}: row {row + int(odd[0]) // per_row} holds a list of {lengths[odd[0]]}, others of "
                    f"{length}; all should have the same length"
                )
            values = values.flatten()
        shape.append(length)
        per_row *= length
    if values.null_count:
        raise UserError(f"{path}: row {row + _first_null(values) // max(1, per_row)} has an empty cell")
    if inner is not None and tuple(shape[1:]) != inner:
        raise UserError(f"{path}: row {row} holds {shape[1:]} values, others {list(inner)}")
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _first_null(values: Any) -> int:
    return int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turns whatever pyarrow and json raise for a damaged or misnamed file into one `UserError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path) from error
