"""Centers that outliers do not shift: geometric median, coordinate-wise median, trimmed mean."""

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.stats.kernels import add_pull
from saelib.stats.layer_stats import LN_EPS
from saelib.stats.moments import layer_norm
from saelib.stats.slabs import Slabs, Workers, run

if TYPE_CHECKING:
    from saelib.stats.on_device import DeviceTokens

TRIMMED = 0.1
"""Share of the values that the trimmed mean leaves out at each end."""
MAX_SORTED = 2**17
_STRIP_VALUES = 2**25
# A step this small, in units of the mean distance to the center, ends the search for the geometric median.
_TOLERANCE = 1e-8
_MAX_STEPS = 200

_log = logging.getLogger(__name__)


class Pull:
    """The sums over some tokens that a Weiszfeld step needs."""

    def __init__(self, origin: NDArray[np.float64], center: NDArray[np.float64], epsilon: float | None) -> None:
        """Starts without tokens; see `geometric_median`."""
        self.origin = origin
        self.center = center
        self.epsilon = epsilon
        self.pull = np.zeros(len(center))
        self.totals = np.zeros(3)

    def add(self, values: NDArray[np.float32], start: int) -> None:
        """Adds the values [n, d_in] of some tokens."""
        layer_norm, epsilon = self.epsilon is not None, self.epsilon or 0.0
        add_pull(values, self.origin, layer_norm, epsilon, self.center, self.pull, self.totals)

    def merge(self, other: "Pull") -> None:
        """Adds the tokens of another state from the same center."""
        self.pull += other.pull
        self.totals += other.totals

    @property
    def total_distance(self) -> float:
        """Sum of the tokens' distances to the center."""
        return float(self.totals[1])

    def step(self) -> NDArray[np.float64]:
        """Returns the step to the next center.

        Tokens exactly at the center hold it back with a force equal to their number (Vardi and Zhang 2000).
        """
        inverse_distances, _, coincident = self.totals
        force = float(np.linalg.norm(self.pull))
        if force <= coincident:
            return np.zeros(len(self.pull))
        return self.pull / inverse_distances * (1 - coincident / force)


def geometric_median(
    slabs: Slabs,
    start: NDArray[np.floating],
    epsilon: float | None,
    workers: Workers,
    on_device: "DeviceTokens | None" = None,
) -> tuple[NDArray[np.float64], bool]:
    """Finds the point with the least total distance to all tokens, and tells whether the search has converged.

    It uses Weiszfeld's iteration with secant acceleration (Anderson, depth 1). A step that increases the total distance
    is undone. Distances are computed from differences, so no digits cancel however far the tokens are from zero.

    Args:
        slabs: The tokens.
        start: [d_in], near the bulk of the tokens.
        epsilon: Epsilon of a LayerNorm that is applied first; None: the median of the values themselves.
        workers: Number of threads, or a cluster.
        on_device: The same tokens on a GPU, which then does the work.
    """
    origin, center = slabs.origin.astype(np.float64), start.astype(np.float64)
    previous: tuple[NDArray[np.float64], NDArray[np.float64], float] | None = None
    for _ in range(_MAX_STEPS):
        if on_device is None:
            pull = slabs.fold(partial(Pull, origin, center, epsilon), workers)
        else:
            pull = on_device.pull(center, epsilon)
        step = pull.step()
        target = center + step
        if np.linalg.norm(step) <= _TOLERANCE * pull.total_distance / slabs.rows.shape[0]:
            return target, True
        proposal = target
        if previous is not None:
            last_target, last_step, last_distance = previous
            if pull.total_distance > last_distance * (1 + 1e-8):
                center, previous = last_target, None
                continue
            change = step - last_step
            slope = np.clip(change @ step / max(change @ change, 1e-300), -10, 0.5)
            proposal = target - slope * (target - last_target)
        previous = (target, step, pull.total_distance)
        center = proposal
    _log.warning("%s: the geometric median has not converged in %d steps", slabs.rows.name, _MAX_STEPS)
    return center, False


def coordinate_centers(slabs: Slabs, workers: Workers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the median of each column, and its mean without the lowest and highest tenth: [d_in] each.

    Both are exact up to 131,072 tokens. For longer arrays, that many tokens are used, in whole blocks spread evenly,
    with a standard error of about 0.004 of the column's standard deviation. Columns are sorted a strip at a time.
    """
    from dask.delayed import delayed

    bounds = slabs.spread(MAX_SORTED)
    tokens = sum(stop - start for start, stop in bounds)
    d_in, width = slabs.rows.shape[1], max(1, _STRIP_VALUES // tokens)
    reader, strips = delayed(slabs.reader, traverse=False), range(0, d_in, width)
    tasks = [delayed(_sort_strip)(reader, bounds, slice(first, min(first + width, d_in))) for first in strips]
    medians, trimmed = zip(*run(tasks, workers), strict=True)
    return np.concatenate(medians), np.concatenate(trimmed)


def _sort_strip(
    slabs: Slabs, bounds: list[tuple[int, int]], columns: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns median and trimmed mean of some columns, over the rows of `bounds`."""
    tokens = sum(stop - start for start, stop in bounds)
    cut = int(TRIMMED * tokens)
    strip = np.empty((columns.stop - columns.start, tokens), np.float32)
    filled = 0
    for start, stop in bounds:
        strip[:, filled : filled + stop - start] = slabs.read(start, stop, columns).T
        filled += stop - start
    strip.sort(axis=1)
    middle = strip[:, [(tokens - 1) // 2, tokens // 2]]
    return middle.mean(1, dtype=np.float64), strip[:, cut : tokens - cut].mean(1, dtype=np.float64)


def robust_centers(
    slabs: Slabs, workers: Workers, on_device: "DeviceTokens | None" = None
) -> tuple[dict[str, NDArray[np.floating]], list[str]]:
    """Computes the centers, each [d_in] in the tokens' own units, by their names in the statistics.

    The workers sort columns; the geometric medians are theirs too, unless the tokens are on a device.

    Returns:
        The centers, and one sentence for each that has not converged.
    """
    coordinate_median, trimmed_mean = coordinate_centers(slabs, workers)
    median, settled = geometric_median(slabs, coordinate_median, None, workers, on_device)
    epsilon = LN_EPS * slabs.scale**2
    start = np.median(layer_norm(slabs.sample + slabs.origin.astype(np.float64), epsilon), axis=0)
    ln_median, ln_settled = geometric_median(slabs, start, epsilon, workers, on_device)
    values = {
        "center_median": median,
        "center_coordinate_median": coordinate_median,
        "center_trimmed_mean": trimmed_mean,
    }
    centers: dict[str, NDArray[np.floating]] = {name: slabs.base + v / slabs.scale for name, v in values.items()}
    failed = [name for name, done in (("center_median", settled), ("ln_center_median", ln_settled)) if not done]
    sentences = [f"{name} is not exact: its search stopped after {_MAX_STEPS} steps" for name in failed]
    return centers | {"ln_center_median": ln_median}, sentences
