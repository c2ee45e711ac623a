"""A GPU finds the statistics that the CPU's kernels find, whether the tokens fit its memory or not.

Most tests of statistics run on every device; these compare the devices.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelib.activations.rows import ArrayRows
from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract import stage as extract
from saelib.pipeline.plan import make_plan
from saelib.stats import compute_stats, load_stats, stage
from saelib.stats.medians import Pull, geometric_median
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


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(20, 1500),
    d_in=st.integers(16, 40),  # LayerNorm magnifies the kernels' float32 if a token has nearly the same value in each
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
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-6, abs=1e-7), name
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


def test_the_sums_of_a_step_are_the_kernels_at_a_center_where_tokens_lie(device: str) -> None:
    x = tokens(0, 500, 6, gamma=1).astype(np.float32)
    x[::5] = x[0]
    slabs = open_slabs(ArrayRows(x))
    center = slabs.read(0, 1)[0].astype(np.float64)
    wanted = slabs.fold(partial(Pull, slabs.origin.astype(np.float64), center, None), 1)
    found = DeviceTokens(slabs, "cpu:0" if device == "cpu" else device).pull(center, None)
    assert found.totals[2] == 100
    np.testing.assert_allclose(found.totals, wanted.totals, rtol=1e-12)
    np.testing.assert_allclose(found.pull, wanted.pull, rtol=1e-9, atol=1e-9)


def suite(folder: Path, device: str, **more: Any) -> Config:
    arrays = {"family": "arrays", "files": {0: str(folder / "a.npy")}}
    parts = {
        "results": str(folder / "results"),
        "models": {"m": {"domain": "d", "source": arrays, "layers": 0}},
        "extraction": {"tokens": 2000, "heldout_tokens": 200, "chunk_rows": 128, "window_rows": 256},
        "stats": {"device": device},
    }
    return check_config(parts | more, "test")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder with the store of `suite`."""
    np.save(tmp_path / "a.npy", tokens(0, 3000, 16, gamma=2))
    config = suite(tmp_path, "cpu")
    extract.run(config, make_plan(config).jobs["extract/m/layers_0-0"])
    return tmp_path


def measured(config: Config) -> tuple[float | None, str]:
    """Gamma as the stage computes it, and the key of the result."""
    stage.run(config, make_plan(config).jobs["stats/m/layers_0-0"])
    found = load_stats(config.stats_path("m", 0))
    return found.gamma, found.key


def test_the_stage_computes_on_the_device_of_the_config(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    moments = DeviceTokens.moments
    monkeypatch.setattr(DeviceTokens, "moments", lambda self, plan: used.append(self._device) or moments(self, plan))
    monkeypatch.setattr(stage, "job_device", lambda wanted, *_, **__: "cpu:0" if wanted == "cuda" else wanted)
    found = {device: measured(suite(stored, device)) for device in ("cpu", "cuda")}
    assert used == ["cpu:0"]
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-6)
    assert found["cuda"][1] != found["cpu"][1]


def test_the_number_of_the_gpu_is_not_in_the_key(stored: Path) -> None:
    one, other = (
        make_plan(suite(stored, device)).jobs["stats/m/layers_0-0"].targets[0].key for device in ("cuda", "cuda:1")
    )
    assert one == other


def test_an_exhausted_gpu_is_one_sentence(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: DeviceTokens, plan: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(stage, "job_device", lambda *_, **__: "cpu:0")
    monkeypatch.setattr(DeviceTokens, "moments", exhausted)
    with pytest.raises(
        UserError, match=r"statistics of width 16 take at least 0\.8 GB, and the GPU has .*stats\.device: cpu"
    ):
        measured(suite(stored, "cuda"))


def test_a_gpu_and_a_dask_cluster_are_not_asked_for_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stats\.device: auto is for jobs .* `dask` names a cluster"):
        suite(tmp_path, "auto", dask={"scheduler": "tcp://head:8786"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_named_with_its_key(stored: Path) -> None:
    with pytest.raises(UserError, match=r"stats\.device: cuda: torch finds no GPU here"):
        measured(suite(stored, "cuda"))
