"""Parts of an array that its file does not hold. Readers fill them in without a word; we say so."""

from pathlib import Path
from typing import Any

from saelib.errors import UserError


def refuse_holes(path: Path, missing: int, chunks: int, fill: Any, first: str = "") -> None:
    """Raise `UserError` where chunks are missing, with the way out for arrays that are meant to lack them.

    Nothing in a file tells a chunk that was lost from one that zarr left out because it holds nothing but the fill
    value (`write_empty_chunks=False`, its default): the user has to say which it is.
    """
    if missing:
        value = "NaN" if fill != fill else f"{float(fill):g}"
        raise UserError(
            f"{path}: {missing:,} of {chunks:,} chunks are missing{first}, and would be read as {value}. Perhaps the "
            f"writing or a copy was cut short. If the writer left them out because all their values are {value}, say "
            f"so with --fill-missing-chunks, or fill_missing_chunks: true beside `files` in a suite"
        )
