"""The statistics of one layer, and the two files they are kept in."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.files.digest import file_sha256
from saelib.files.publish import published_file
from saelib.files.sealed import read_result, write_result


@dataclass(frozen=True)
class LayerStats:
    """Of all tokens of one activation array; mu is their mean, sigma their standard deviation per dimension.

    What the tokens do not define (they are all the same after LayerNorm, say) is None.
    """

    tokens: int
    d_in: int
    gamma: float | None
    """||mu|| / ||sigma|| of the tokens after per-token LayerNorm (no affine, eps 1e-5): what the paper calls gamma."""
    gamma_raw: float | None
    """||mu|| / ||sigma|| of the tokens as they are."""
    gamma_unit: float | None
    """||mu|| / ||sigma|| of the tokens x / ||x||. What death at initialization sees: it sees an offset along
    (1, ..., 1), which LayerNorm removes, and not the length of a token. Tokens of zeros stay zeros."""
    sigma: float
    """||sigma|| of the tokens as they are."""
    norm_ratio: float
    """Largest token norm over the median token norm (tokens of zeros left out). Attention sinks: 100 and more."""
    norm_quantiles: dict[str, float]
    """Of the token norms, to 0.1 %: 'p01', 'p25', 'p50', 'p75', 'p99'; 'max' (exact). Tokens of zeros left out."""
    effective_rank: float | None
    """exp of the entropy of the normalized covariance spectrum, after LayerNorm, about the mean (Roy and Vetterli)."""
    effective_rank_fraction: float | None
    """effective_rank / d_in"""
    leading_eigenvalues: list[float]
    """Up to 64, largest first, of that same covariance. All of them add up to ||sigma||^2 after LayerNorm."""
    excess_kurtosis: float | None
    """Mean over dimensions of the excess kurtosis (0 for a Gaussian); constant dimensions left out."""
    center_distances: dict[str, float]
    """'mean to center_median' and so on for each pair of centers: their distance over ||sigma||."""
    warnings: list[str]
    """What a reader of these numbers should know, in plain sentences."""
    arrays: dict[str, NDArray[np.floating]] = field(default_factory=dict, repr=False, compare=False)
    """What `docs/architecture.md` lists, by name: vectors float64 [d_in]; eigenvectors float32 [d_in, d_in], in
    columns. `compute_stats` fills it; `load_stats` leaves it empty, because `load_arrays` can be slow."""
    key: str = field(default="", compare=False)
    """One hash over everything that a file was made from; empty for statistics that were not read from a file."""

    def __repr__(self) -> str:
        """Shows the sizes and what decides death, not the arrays."""
        names = ("gamma", "gamma_raw", "gamma_unit", "effective_rank")
        shown = ", ".join(f"{name}={value:.3g}" for name in names if (value := getattr(self, name)) is not None)
        warned = f", {len(self.warnings)} warnings" if self.warnings else ""
        return f"LayerStats({self.tokens:,} tokens x {self.d_in:,}, {shown}{warned})"


_SCALARS = [scalar.name for scalar in fields(LayerStats) if scalar.name not in ("arrays", "key")]


def save_stats(stats: LayerStats, json_path: Path, key: str) -> None:
    """Write the scalars to `json_path` and the arrays beside it (`.safetensors`).

    The arrays come first and the JSON, which holds their checksum, last: a JSON file never speaks of arrays that are
    not there.
    """
    from safetensors.numpy import save_file

    arrays_path = json_path.with_suffix(".safetensors")
    with published_file(arrays_path) as draft:
        save_file({name: np.ascontiguousarray(array) for name, array in stats.arrays.items()}, draft)
        checksum = file_sha256(draft)
    write_result(json_path, key, {"arrays_sha256": checksum} | {n: getattr(stats, n) for n in _SCALARS})


def load_stats(json_path: Path) -> LayerStats:
    """Read the scalars; `arrays` is left empty (see `load_arrays`).

    Raises:
        UserError: if the file is missing or not one that `save_stats` wrote; the message names the field.
    """
    return read_result(LayerStats, json_path)


def load_arrays(json_path: Path) -> dict[str, NDArray[np.floating]]:
    """Read the arrays that belong to the JSON file, by name.

    Raises:
        UserError: where either file is missing, or the arrays are not those that the JSON was written for.
    """
    from safetensors.numpy import load_file

    arrays_path = json_path.with_suffix(".safetensors")
    expected = read_result(_Arrays, json_path).arrays_sha256
    if not arrays_path.is_file():
        raise UserError(f"{arrays_path}: missing, although {json_path.name} speaks of it; compute the statistics again")
    if file_sha256(arrays_path) != expected:
        raise UserError(
            f"{arrays_path}: its checksum is not the one in {json_path.name} (corrupt, or from another run); "
            f"delete both files and compute the statistics again"
        )
    return load_file(arrays_path)


@dataclass(frozen=True)
class _Arrays:
    """What the JSON file says of the arrays."""

    arrays_sha256: str
