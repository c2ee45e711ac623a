"""The statistics of one layer, and the two files that hold them."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.files.digest import file_sha256
from saelib.files.publish import published_file
from saelib.files.sealed import read_result, write_result
from saelib.stats.outliers import OutlierDimension

LN_EPS = 1e-5
"""Epsilon of every LayerNorm here, in statistics and in preprocessings, as in the paper's released code."""


@dataclass(frozen=True)
class LayerStats:
    """Statistics of all tokens of one activation array; mu is their mean, sigma their standard deviation per dimension.

    A statistic is None if the tokens do not define it, for example if they are all the same after LayerNorm.
    """

    tokens: int
    d_in: int
    gamma: float | None
    """||mu|| / ||sigma|| of the tokens after per-token LayerNorm (no affine, eps 1e-5). This is the paper's gamma."""
    gamma_raw: float | None
    """||mu|| / ||sigma|| of the tokens as they are."""
    gamma_unit: float | None
    """||mu|| / ||sigma|| of the tokens x / ||x|| (tokens of zeros stay zeros). It decides death at initialization: that
    depends on an offset along (1, ..., 1), which LayerNorm removes, and not on the length of a token."""
    sigma: float
    """||sigma|| of the tokens as they are."""
    norm_ratio: float
    """Largest token norm over the median token norm, without tokens of zeros; 100 and more for attention sinks."""
    norm_quantiles: dict[str, float]
    """Quantiles of the token norms, without tokens of zeros: 'p01', 'p25', 'p50', 'p75', 'p99' (to 0.1 %) and 'max'."""
    outlier_dimensions: list[OutlierDimension]
    """Dimensions with at least 5 % of the squared length of the mean of the tokens x / ||x||; eight at most."""
    massive_share: float
    """Share of the tokens that are more than ten times as long as the median one, to 0.1 % of the length."""
    effective_rank: float | None
    """exp of the entropy of the normalized covariance spectrum, after LayerNorm, about the mean (Roy and Vetterli)."""
    effective_rank_fraction: float | None
    """effective_rank / d_in."""
    leading_eigenvalues: list[float]
    """Up to 64 eigenvalues of that covariance, largest first. All d_in add up to ||sigma||^2 after LayerNorm."""
    excess_kurtosis: float | None
    """Mean of the excess kurtosis (0 for a Gaussian) over the dimensions that are not constant."""
    center_distances: dict[str, float]
    """Distance of each pair of centers over ||sigma||, under names such as 'mean to center_median'."""
    warnings: list[str]
    """Sentences that a reader of these numbers should know."""
    arrays: dict[str, NDArray[np.floating]] = field(default_factory=dict, repr=False, compare=False)
    """The arrays that `docs/architecture.md` lists, by name: vectors float64 [d_in], and eigenvectors float32
    [d_in, d_in] in columns. `load_stats` leaves it empty, because `load_arrays` can be slow."""
    key: str = field(default="", compare=False)
    """One hash over everything that a file was made from; empty for statistics that were not read from a file."""

    def __repr__(self) -> str:
        """Shows the sizes and the numbers that decide death, but not the arrays."""
        names = ("gamma", "gamma_raw", "gamma_unit", "effective_rank")
        shown = ", ".join(f"{name}={value:.3g}" for name in names if (value := getattr(self, name)) is not None)
        warned = f", {len(self.warnings)} warnings" if self.warnings else ""
        return f"LayerStats({self.tokens:,} tokens x {self.d_in:,}, {shown}{warned})"


_SCALARS = [scalar.name for scalar in fields(LayerStats) if scalar.name not in ("arrays", "key")]


def save_stats(stats: LayerStats, json_path: Path, key: str) -> None:
    """Writes the scalars to `json_path` and the arrays next to it (`.safetensors`).

    The JSON file, which holds the checksum of the arrays, is written last, so that its arrays always exist.
    """
    from safetensors.numpy import save_file

    arrays_path = json_path.with_suffix(".safetensors")
    with published_file(arrays_path) as draft:
        save_file({name: np.ascontiguousarray(array) for name, array in stats.arrays.items()}, draft)
        checksum = file_sha256(draft)
    write_result(json_path, key, {"arrays_sha256": checksum} | scalars_of(stats))


def scalars_of(stats: LayerStats) -> dict[str, Any]:
    """Returns everything but the arrays and the key, as JSON."""
    scalars = {name: getattr(stats, name) for name in _SCALARS}
    return scalars | {"outlier_dimensions": [asdict(one) for one in stats.outlier_dimensions]}


def load_stats(json_path: Path) -> LayerStats:
    """Reads the scalars and leaves `arrays` empty (see `load_arrays`).

    Raises:
        UserError: if the file is missing or is not one that `save_stats` wrote; the message names the field.
    """
    return read_result(LayerStats, json_path)


def load_arrays(json_path: Path) -> dict[str, NDArray[np.floating]]:
    """Reads the arrays that belong to the JSON file, by name.

    Raises:
        UserError: if either file is missing, or the arrays are not those that the JSON file was written for.
    """
    from safetensors.numpy import load_file

    arrays_path = json_path.with_suffix(".safetensors")
    expected = read_result(_Arrays, json_path).arrays_sha256
    if not arrays_path.is_file():
        raise UserError(f"{arrays_path}: missing, although {json_path.name} needs it; compute the statistics again")
    if file_sha256(arrays_path) != expected:
        raise UserError(
            f"{arrays_path}: its checksum is not the one in {json_path.name} (corrupt, or from another run); "
            f"delete both files and compute the statistics again"
        )
    return load_file(arrays_path)


@dataclass(frozen=True)
class _Arrays:
    """The part of the JSON file that is about the arrays."""

    arrays_sha256: str
