"""Batches that arrive once become `Rows` that can be read again."""

import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from saelib.activations.arrays import in_memory
from saelib.activations.rows import ArrayRows, Rows
from saelib.errors import UserError


def spool(batches: Iterable[Any], tokens: int, name: str) -> Rows:
    """Keeps the first `tokens` rows of batches that come once, in a temporary file that goes with the process.

    Args:
        batches: Arrays or tensors [n, d_in] or [n, context, d_in], all of one width.
        tokens: Rows to keep; no batch is asked for once there are so many.
        name: Their name in messages.

    Raises:
        UserError: If there are none, or one has another width or is not floating point.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the memory map keeps it open)
    found, width = 0, 0
    for number, batch in enumerate(batches):
        values = in_memory(batch, f"{name}, batch {number}").values[: tokens - found].astype(np.float32)
        if width not in (0, values.shape[1]):
            raise UserError(f"{name}, batch {number}: has {values.shape[1]} dimensions; those before have {width}")
        values.tofile(file)
        found, width = found + len(values), values.shape[1]
        if found >= tokens:
            break
    if not found:
        raise UserError(f"{name}: there are no batches; should be arrays [n, d_in]")
    file.flush()
    return ArrayRows(np.memmap(file, np.float32, "r", shape=(found, width)), name)
