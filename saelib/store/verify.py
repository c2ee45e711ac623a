"""Check every byte of a store."""

from pathlib import Path

import numpy as np

from saelib.errors import UserError
from saelib.store.layout import chunk_name, missing_chunks
from saelib.store.read import CORRUPT, open_store, read_metadata


def verify_store(path: Path) -> list[str]:
    """Read every chunk and compare it with its checksum.

    Returns:
        One line for each problem, naming the chunk; empty for a good store.

    Raises:
        UserError: where there is no folder of that name.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such store")
    try:
        missing = missing_chunks(path, read_metadata(path))
        if missing:
            return [f"{name}: missing" for name in missing]
        store = open_store(path)
    except UserError as error:
        return [str(error)]
    problems = []
    for split, arrays in store.arrays.items():
        for name, array in arrays.items():
            rows = array.chunks[0]
            for index, start in enumerate(range(0, array.shape[0], rows)):
                try:
                    values = np.asarray(array[start : start + rows])
                except CORRUPT as error:
                    problems.append(f"{chunk_name(split, name, index)}: corrupt ({error})")
                    continue
                if not np.isfinite(values).all():
                    problems.append(f"{chunk_name(split, name, index)}: holds values that are not finite")
    return problems
