"""Computes the statistics of an activation array."""

import math
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.stats.layer_stats import LayerStats
from saelib.stats.outliers import MASSIVE, outlier_dimensions

if TYPE_CHECKING:
    from saelib.stats.moments import Kind, Moments
    from saelib.stats.on_device import DeviceTokens
    from saelib.stats.slabs import Slabs, Workers

LEADING_EIGENVALUES = 64
TOKENS_PER_DIMENSION = 5
"""Fewer tokens make the effective rank too low: 0.96 of its value at 4 d_in tokens, 0.73 at 0.4 d_in tokens."""
MASSIVE_NORM_RATIO = 20
"""Ratio of the largest token norm to the median one, above which a warning speaks of massive tokens."""
UNRESOLVED_GAMMA = 1e5
"""Gamma above which float32 leaves few correct digits."""
HARMLESS_GAMMA = 0.3
"""Gamma up to which the closed forms predict no dead latents, for all usual sizes of an SAE."""
DISAGREEMENT = 1.25
"""Ratio of gamma and gamma_unit above which a warning says that they disagree; 0.997 to 1.2 in the default suite."""
NEARLY_CONSTANT = 1e-6
"""Standard deviation below which a dimension is called nearly constant, as a share of the median one."""
RESOLVED = 4
"""A direction is empty if its variance is less than this many times the largest variance that rounding can have."""
QUANTILES = {"p01": 0.01, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}
CENTERS = ("mean", "center_median", "center_coordinate_median", "center_trimmed_mean")


def compute_stats(rows: Rows, *, workers: "Workers" = 1, whitening: bool = True, device: str = "cpu") -> LayerStats:
    """Computes statistics of all tokens in `rows`, which may be far larger than memory.

    One pass collects moments and Gram matrices. Each step of the two geometric medians (usually 5 to 15 steps) is
    another pass, and so is each strip of columns that is sorted for the coordinate-wise median and the trimmed mean.
    These last two are exact up to 131,072 tokens; of longer arrays they use that many, spread evenly. Everything else
    uses all tokens. Memory depends on d_in and `workers`, not on the number of tokens. On CPUs of one kind, the result
    is the same to the last bit for any `workers`.

    Some statistics are None, with a warning, if the tokens do not define them: if the tokens are all the same after
    LayerNorm (as in one dimension), or differ only in length.

    Args:
        rows: Activations [tokens, d_in].
        workers: Number of threads that share the work, or a cluster (`saelib.stats.cluster.connected`).
        whitening: Also compute eigenvalues and eigenvectors of the raw covariance, for the preprocessing `pca`.
        device: "cuda" collects moments and geometric medians on a GPU (`saelib.stats.on_device`). Results differ from
            the CPU's by rounding: less than 1e-6 of a gamma (1e-7 if it is below 0.1), of the effective rank, and of
            sigma for a center.

    Raises:
        UserError: if there are no tokens, a value is NaN or infinite, or all tokens are the same. The message contains
            `rows.name`.
    """
    # numba is imported only here, where it is needed. Only one BLAS thread gives the same bits on any machine.
    from threadpoolctl import threadpool_limits

    from saelib.stats.medians import robust_centers
    from saelib.stats.moments import collect_moments
    from saelib.stats.slabs import open_slabs

    if min(rows.shape) == 0:
        raise UserError(f"{rows.name}: no activations (its shape is {rows.shape[0]} x {rows.shape[1]})")
    with threadpool_limits(1, "blas"):
        slabs = open_slabs(rows)
        on_device = _on_device(slabs, device)
        moments = collect_moments(slabs, workers, whitening, on_device)
        gammas = _gammas(moments, rows.name)
        centers, unsettled = robust_centers(slabs, workers, on_device)
        arrays = _moment_arrays(moments, slabs.scale) | centers
        if whitening:
            arrays |= _raw_spectrum(moments, slabs)
        eigenvalues = np.linalg.eigvalsh(moments.covariance(1))[::-1]
    norms = _norm_quantiles(moments, slabs.scale)
    rank = effective_rank(eigenvalues) if gammas["gamma"] is not None else None
    kurtosis = arrays["excess_kurtosis"][np.isfinite(arrays["excess_kurtosis"])]
    stats = LayerStats(
        tokens=rows.shape[0],
        d_in=rows.shape[1],
        gamma=gammas["gamma"],
        gamma_raw=gammas["gamma_raw"],
        gamma_unit=gammas["gamma_unit"],
        sigma=float(np.linalg.norm(arrays["std"])),
        norm_ratio=norms["max"] / norms["p50"],
        norm_quantiles=norms,
        outlier_dimensions=outlier_dimensions(moments.mean(2), arrays["mean"], arrays["std"]),
        massive_share=moments.share_longer(MASSIVE * norms["p50"] * slabs.scale),
        effective_rank=rank,
        effective_rank_fraction=rank and rank / rows.shape[1],
        leading_eigenvalues=eigenvalues[:LEADING_EIGENVALUES].tolist(),
        excess_kurtosis=float(kurtosis.mean()) if len(kurtosis) else None,
        center_distances=_center_distances(arrays),
        warnings=unsettled,
        arrays=arrays,
    )
    return replace(stats, warnings=_warnings(stats, moments.zero_tokens) + unsettled)


def _on_device(slabs: "Slabs", device: str) -> "DeviceTokens | None":
    if device == "cpu":
        return None
    from saelib.stats.on_device import DeviceTokens

    return DeviceTokens(slabs, device)


def effective_rank(eigenvalues: NDArray[np.floating]) -> float:
    """Returns exp of the entropy of a covariance spectrum (Roy and Vetterli 2007); shares below 1e-12 count as zero."""
    shares = np.maximum(eigenvalues, 0)
    shares = shares / shares.sum()
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _gammas(moments: "Moments", name: str) -> dict[str, float | None]:
    """Returns the three gammas; a gamma that the tokens do not define is None."""
    kinds: dict[str, Kind] = {"gamma_raw": 0, "gamma": 1, "gamma_unit": 2}
    gammas = {kind: moments.gamma(of) for kind, of in kinds.items()}
    if math.isinf(gammas["gamma_raw"]):
        raise UserError(
            f"{name}: all {moments.tokens} tokens are the same, so gamma_raw = ||mu|| / ||sigma|| is not defined; "
            f"tokens have to differ"
        )
    return {kind: None if math.isinf(gamma) else gamma for kind, gamma in gammas.items()}


def _norm_quantiles(moments: "Moments", scale: float) -> dict[str, float]:
    quantiles = {name: moments.norm_quantile(fraction) for name, fraction in QUANTILES.items()}
    return {name: norm / scale for name, norm in {**quantiles, "max": moments.max_norm}.items()}


def _moment_arrays(moments: "Moments", scale: float) -> dict[str, NDArray[np.floating]]:
    return {
        "mean": moments.mean(0) / scale,
        "std": np.sqrt(moments.variance()) / scale,
        "ln_mean": moments.mean(1),
        "ln_std": np.sqrt(np.maximum(np.diag(moments.covariance(1)), 0)),
        "excess_kurtosis": moments.excess_kurtosis(),
    }


def _center_distances(arrays: dict[str, NDArray[np.floating]]) -> dict[str, float]:
    sigma = np.linalg.norm(arrays["std"])
    return {f"{a} to {b}": float(np.linalg.norm(arrays[a] - arrays[b]) / sigma) for a, b in combinations(CENTERS, 2)}


def _raw_spectrum(moments: "Moments", slabs: "Slabs") -> dict[str, NDArray[np.floating]]:
    """Returns eigenvalues and eigenvectors (columns) of the raw covariance, largest first.

    A direction that holds only float16's rounding errors gets eigenvalue 0; otherwise whitening would make these errors
    as large as everything else. Activations that have just been LayerNormed have one such direction.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(moments.covariance(0))
    if slabs.halves:
        noise = moments.rounding() @ np.square(eigenvectors)
        eigenvalues[eigenvalues < RESOLVED * noise] = 0
    order = np.argsort(-eigenvalues, kind="stable")
    return {
        "eigenvalues": np.maximum(eigenvalues[order], 0) / slabs.scale**2,
        "eigenvectors": eigenvectors[:, order].astype(np.float32),
    }


def _warnings(stats: LayerStats, zero_tokens: int) -> list[str]:
    std = stats.arrays["std"]
    constant = int((std == 0).sum())
    nearly = int((std < NEARLY_CONSTANT * np.median(std[std > 0])).sum()) - constant
    wanted = TOKENS_PER_DIMENSION * stats.d_in
    found = []
    if stats.tokens < wanted:
        found.append(
            f"{stats.tokens} tokens are few for {stats.d_in} dimensions: with fewer than {wanted}, the effective rank "
            f"is too low and whitening fits noise"
        )
    if stats.norm_ratio > MASSIVE_NORM_RATIO:
        found.append(
            f"massive tokens: the largest norm is {stats.norm_ratio:.0f} times the median; such tokens can dominate "
            f"gamma, the effective rank and the mean"
        )
    if zero_tokens:
        found.append(f"{zero_tokens} tokens are all zeros, which suggests padding")
    if constant:
        found.append(f"{constant} of {stats.d_in} dimensions are constant")
    if nearly:
        found.append(
            f"{nearly} of {stats.d_in} dimensions vary less than a millionth as much as the median one; z-scoring "
            f"would amplify rounding errors there"
        )
    for kind, gamma, same in (
        ("gamma", stats.gamma, "after LayerNorm"),
        ("gamma_unit", stats.gamma_unit, "except for their length"),
    ):
        if gamma is None:
            found.append(f"all {stats.tokens} tokens are the same {same}, so {kind} is not defined")
    low, high = sorted((stats.gamma or 0, stats.gamma_unit or 0))
    if None not in (stats.gamma, stats.gamma_unit) and high > HARMLESS_GAMMA and high > DISAGREEMENT * low:
        found.append(
            f"gamma = {stats.gamma:.2g} and gamma_unit = {stats.gamma_unit:.2g} disagree: latents see the tokens "
            f"without LayerNorm, which removes a mean along (1, ..., 1), so gamma_unit predicts their death"
        )
    largest = max(stats.gamma or 0, stats.gamma_unit or 0)
    if largest > UNRESOLVED_GAMMA:
        found.append(f"gamma = {largest:.2g} is near the limit of float32 and holds to few digits")
    return found
