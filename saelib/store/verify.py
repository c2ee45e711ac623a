"""Checks every byte of a store."""

from pathlib import Path

import numpy as np

from saelib.errors import UserError
from saelib.store.layout import chunk_name
from saelib.store.places import find, missing_chunks, read_metadata
from saelib.store.read import CORRUPT, open_arrays


def verify_store(location: Path | str) -> list[str]:
    """Reads every chunk of a store (a folder, or an s3:// URL) and compares it with its checksum.

    Returns:
        One line for each problem, which names the chunk; an empty list for a good store.

    Raises:
        UserError: if there is no store of that name, or the server cannot be reached.
    """
    place = find(location)
    try:
        metadata = read_metadata(place, location)
        missing = missing_chunks(place, metadata)
        if missing:
            return [f"{name}: missing" for name in missing]
        store = open_arrays(place, metadata, location)
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
