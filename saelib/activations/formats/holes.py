"""Parts of an array that are missing from its file: other readers fill them in silently, we refuse them."""

from pathlib import Path
from typing import Any

from saelib.errors import UserError


def refuse_holes(path: Path, missing: int, chunks: int, fill: Any, first: str = "") -> None:
    """Raises `UserError` if chunks are missing, and says what to do if they were left out on purpose.

    A file does not show whether a chunk was lost or whether zarr left it out because it holds nothing but the fill
    value (`write_empty_chunks=False`, zarr's default). Only the user can say which it is.
    """
    if missing:
        value = "NaN" if fill != fill else f"{float(fill):g}"
        raise UserError(
            f"{path}: {missing:,} of {chunks:,} chunks are missing{first}, and would be read as {value}. Perhaps the "
            f"writing or a copy was cut short. If the writer left them out because all their values are {value}, say "
            f"so with --fill-missing-chunks, or with fill_missing_chunks: true next to `files` in a suite"
        )
