"""A GPU finds the statistics that the CPU's kernels find, whether the tokens fit its memory or not.

Most tests of statistics run on every device; these compare the devices.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelib.activations.rows import ArrayRows
from saelib.stats import compute_stats
from saelib.stats.medians import geometric_median
from saelib.stats.moments import plan_pass
from saelib.stats.on_device import DeviceTokens
from saelib.stats.slabs import open_slabs

CENTERS = ("mean", "center_median", "center_coordinate_median", "center_trimmed_mean")


def tokens(seed: int, n: int, d_in: int, gamma: float) -> np.ndarray:
    """Correlated tokens about a mean of `gamma` times their spread."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in)) @ rng.standard_normal((d_in, d_in))
    mean = rng.standard_normal(d_in)
    return x + gamma * np.linalg.norm(x.std(0)) * mean / np.linalg.norm(mean)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(20, 1500),
    d_in=st.integers(3, 40),
    gamma=st.floats(0, 20),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    block_rows=st.sampled_from([64, 4096]),
)
def test_every_statistic_is_the_cpus_but_for_rounding(
    device: str, seed: int, n: int, d_in: int, gamma: float, dtype: type, block_rows: int
) -> None:
    rows = ArrayRows(tokens(seed, n, d_in, gamma).astype(dtype), block_rows=block_rows)
    wanted, found = compute_stats(rows), compute_stats(rows, device=device)
    for name in ("gamma", "gamma_raw", "gamma_unit", "effective_rank", "sigma"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-6), name
    for name in CENTERS:
        assert np.linalg.norm(found.arrays[name] - wanted.arrays[name]) <= 1e-6 * wanted.sigma, name
    assert found.norm_quantiles == pytest.approx(wanted.norm_quantiles, rel=2.1e-3)  # one bin apart at most
    spectrum = wanted.arrays["eigenvalues"]
    np.testing.assert_allclose(found.arrays["eigenvalues"], spectrum, rtol=1e-6, atol=1e-9 * spectrum[0])


@pytest.mark.parametrize("share", [0, 0.4, 1])
def test_tokens_that_do_not_fit_the_gpu_are_read_again_with_the_same_result(share: float, device: str) -> None:
    x = tokens(0, 20_000, 8, gamma=2).astype(np.float16)
    slabs = open_slabs(ArrayRows(x, block_rows=1024))
    assert len(slabs.bounds()) == 5
    name = "cpu:0" if device == "cpu" else device
    plan = plan_pass(slabs, whitening=True)

    def found(room: float) -> list[np.ndarray]:
        on_device = DeviceTokens(slabs, name, room)
        median, _ = geometric_median(slabs, np.zeros(8), None, 1, on_device)
        moments = on_device.moments(plan)
        return [median, moments.sums, moments.squares, moments.gram, moments.raw_gram, moments.norm_counts]

    for part, whole in zip(found(share * 4 * x.size), found(4 * x.size), strict=True):
        np.testing.assert_array_equal(part, whole)


def test_tokens_are_read_once_if_they_fit_and_else_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    slabs = open_slabs(ArrayRows(tokens(0, 20_000, 8, gamma=2).astype(np.float32), block_rows=1024))
    reads: list[int] = []
    read = type(slabs).read

    def counted(self, start, stop, *columns):
        reads.append(start)
        return read(self, start, stop, *columns)

    monkeypatch.setattr(type(slabs), "read", counted)
    for room, times in ((1e9, 1), (0, 3)):
        on_device = DeviceTokens(slabs, "cpu:0", room)
        for _ in range(3):
            on_device.pull(np.zeros(8), None)
        assert reads == times * [start for start, _ in slabs.bounds()]
        reads.clear()


def test_a_median_among_repeated_tokens_is_that_token(device: str) -> None:
    """Half of all tokens at one place hold the median there, as a force that no other center balances."""
    x = tokens(0, 500, 6, gamma=1)
    x[::2] = x[0]
    stats = compute_stats(ArrayRows(x.astype(np.float32)), device=device)
    assert np.linalg.norm(stats.arrays["center_median"] - x[0].astype(np.float32)) < 1e-6 * stats.sigma
