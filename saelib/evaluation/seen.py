"""Files of an evaluation: the tokens that the SAEs of one layer saw, and the sparse codes of each SAE.

A folder holds `examples.parquet` and `tokens.parquet`, and for each SAE a folder with `codes.npz` and
`latents.parquet`. docs/evaluation.md lists the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelib.errors import UserError

if TYPE_CHECKING:
    import polars as pl

EXAMPLE_COLUMNS = {
    "example": "Int32",
    "id": "String",
    "kind": "String",
    "text": "String",
    "image": "Binary",
    "first_token": "Int64",
    "tokens": "Int32",
}
"""Columns of `examples.parquet` and their types. `kind` is text, sequence, image or row; `text` holds a text or a
sequence, `image` a PNG, and the other of the two is null. The tokens of an example follow one another in
`tokens.parquet` from row `first_token` on."""
TOKEN_COLUMNS = {"example": "Int32", "start": "Int32", "end": "Int32", "massive": "Boolean"}
"""Columns of `tokens.parquet`. The token stands for `text[start:end]`, or for row `start` of an array."""
PATCH_COLUMNS = {"example": "Int32", **dict.fromkeys(("x0", "y0", "x1", "y1"), "Int32"), "massive": "Boolean"}
"""Columns of `tokens.parquet` for images. The token stands for the pixels [y0:y1, x0:x1]."""
LATENT_COLUMNS = {
    "latent": "Int32",
    "density": "Float64",
    "max_activation": "Float32",
    "state": "String",
    "concept": "String",
    "concept_f1": "Float64",
    "twin_sae": "String",
    "twin": "Int32",
    "twin_cosine": "Float64",
}
"""Columns of `latents.parquet`, one row per latent. `state` is dead, alive or dense. The concept is null without
labels, and the twin (the most similar latent of another SAE) is null without another SAE."""


@dataclass(frozen=True)
class Seen:
    """An opened evaluation of one layer. Tables and codes are read when they are first used."""

    folder: Path

    @cached_property
    def examples(self) -> "pl.DataFrame":
        """One row per example, with the columns `EXAMPLE_COLUMNS`."""
        return _read(self.folder / "examples.parquet", EXAMPLE_COLUMNS)

    @cached_property
    def tokens(self) -> "pl.DataFrame":
        """One row per token, with the columns `TOKEN_COLUMNS` or, for images, `PATCH_COLUMNS`."""
        return _read(self.folder / "tokens.parquet", {"example": "Int32", "massive": "Boolean"})

    @cached_property
    def saes(self) -> tuple[str, ...]:
        """Names of the SAEs that have codes here, sorted."""
        return tuple(sorted(file.parent.name for file in self.folder.glob("*/codes.npz")))

    def codes(self, sae: str) -> Any:
        """Reads the codes of an SAE: a `scipy.sparse.csc_array`, float32 [tokens, d_sae], without stored zeros."""
        from zipfile import BadZipFile

        from scipy import sparse

        file = self.folder / sae / "codes.npz"
        try:
            return sparse.csc_array(sparse.load_npz(file))
        except FileNotFoundError:
            raise UserError(f"{file}: no such file; the SAEs here are {', '.join(self.saes) or 'none'}") from None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{file}: not a readable sparse matrix ({error})") from None

    def latents(self, sae: str) -> "pl.DataFrame":
        """Reads the table of an SAE's latents, with the columns `LATENT_COLUMNS`."""
        return _read(self.folder / sae / "latents.parquet", LATENT_COLUMNS)


def read_seen(folder: Path | str) -> Seen:
    """Opens the folder of one layer's evaluation, such as `results/evaluation/MODEL/layer_3`.

    Raises:
        UserError: If the folder does not hold an evaluation.
    """
    folder = Path(folder)
    if not (folder / "tokens.parquet").is_file():
        raise UserError(f"{folder}: no tokens.parquet; should be the folder of one layer's evaluation")
    return Seen(folder)


def write_seen(folder: Path, examples: "pl.DataFrame", tokens: "pl.DataFrame") -> None:
    """Writes the tables of examples and tokens into a folder, which should be published as a whole.

    Raises:
        UserError: If a column is missing.
    """
    patches = "x0" in tokens.columns
    write_frame(folder / "examples.parquet", examples, EXAMPLE_COLUMNS)
    write_frame(folder / "tokens.parquet", tokens, PATCH_COLUMNS if patches else TOKEN_COLUMNS)


def write_codes(folder: Path, sae: str, codes: Any) -> None:
    """Writes the codes of an SAE: any matrix of scipy.sparse, [tokens, d_sae]."""
    import numpy as np
    from scipy import sparse

    matrix: Any = sparse.csc_array(codes).astype(np.float32, copy=False)
    if (matrix.data == 0).any():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    (folder / sae).mkdir(parents=True, exist_ok=True)
    sparse.save_npz(folder / sae / "codes.npz", matrix, compressed=False)


def write_latents(folder: Path, sae: str, latents: "pl.DataFrame") -> None:
    """Writes the table of an SAE's latents; the column `monosemanticity` only if it was measured."""
    (folder / sae).mkdir(parents=True, exist_ok=True)
    measured = {"monosemanticity": "Float64"} if "monosemanticity" in latents.columns else {}
    write_frame(folder / sae / "latents.parquet", latents, LATENT_COLUMNS | measured)


def write_frame(path: Path, table: "pl.DataFrame", columns: Mapping[str, str]) -> None:
    """Writes the named columns of a table in their types. Raises `UserError` if one is missing."""
    import polars as pl

    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path.name}: lacks the columns {', '.join(missing)}")
    table.select(pl.col(name).cast(getattr(pl, kind)) for name, kind in columns.items()).write_parquet(path)


def _read(path: Path, columns: Mapping[str, str]) -> "pl.DataFrame":
    from saelib.files.tables import read_table

    return read_table(path, list(columns), [])
