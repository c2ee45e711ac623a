"""One answer from every kind of source, in every form."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

import saelib
from saelib.errors import UserError

X = (np.random.default_rng(0).standard_normal((3000, 24)) + 2).astype(np.float32)
FIELDS = {
    "tokens", "d_in", "gamma", "gamma_raw", "gamma_unit", "effective_rank", "outlier_dimensions", "massive_tokens",
    "predicted", "measured", "recommendation", "reasons",
}  # fmt: skip


def as_npy(x: NDArray[np.float32], folder: Path) -> Path:
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def batches(x: NDArray[np.float32], _: Path) -> Iterator[NDArray[np.float32]]:
    return iter(np.array_split(x, 7))


SOURCES: dict[str, Callable[[NDArray[np.float32], Path], Any]] = {
    "numpy": lambda x, _: x,
    "torch": lambda x, _: torch.from_numpy(x),
    "three axes": lambda x, _: x.reshape(100, 30, -1),
    "zarr": lambda x, _: zarr.array(x),
    "dask": lambda x, _: dask.array.from_array(x, chunks="auto"),
    "path": as_npy,
    "text path": lambda x, folder: str(as_npy(x, folder)),
    "batches": batches,
}


@pytest.fixture(scope="module")
def expected() -> saelib.Diagnosis:
    return saelib.diagnose(X, d_sae=256, k=8)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same(source: str, tmp_path: Path, expected: saelib.Diagnosis) -> None:
    found = saelib.diagnose(SOURCES[source](X, tmp_path), d_sae=256, k=8)
    assert found.measured == expected.measured
    assert found.gamma_unit == pytest.approx(expected.gamma_unit, rel=1e-6)
    np.testing.assert_allclose(found.center, expected.center, atol=1e-5)


def test_threads_change_no_bit(expected: saelib.Diagnosis) -> None:
    again = saelib.diagnose(X, d_sae=256, k=8, threads=1)
    assert json.dumps(again.to_dict()) == json.dumps(expected.to_dict())


def test_json_has_the_promised_fields(expected: saelib.Diagnosis) -> None:
    values = json.loads(json.dumps(expected.to_dict(), allow_nan=False))
    assert set(values) >= FIELDS
    assert set(values["measured"]) >= {"raw", "centered", "whitened"}
    for of in values["measured"].values():
        assert of["dead_relu"] + of["dead_topk_only"] == pytest.approx(of["dead_total"])
        assert 0 <= of["dead_total"] <= 1
    assert values["recommendation"] == "mean_center"


def test_relu_dies_as_counted_and_without_a_selection(expected: saelib.Diagnosis) -> None:
    found = saelib.diagnose(X, d_sae=256, k=8, architecture="relu")
    for name, of in found.measured.items():
        assert of.dead_total == of.dead_relu == expected.measured[name].dead_relu
        assert of.dead_topk_only == 0
    assert found.curves["raw"][-1] == found.measured["raw"].dead_total


def test_batchtopk_is_predicted_and_said_to_be_so() -> None:
    found = saelib.diagnose(X, d_sae=256, k=8, architecture="batch_topk")
    assert found.measured == {}
    assert found.curves == {}
    assert found.confidence != "high"
    assert found.recommendation == "mean_center"
    assert "not counted" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)
    found.plot()
    assert "saelib-card" in found._repr_html_()


def test_if_no_remedy_is_accepted_all_are_listed() -> None:
    """40 tokens select at most 320 of 4,096 latents, whatever is done to them."""
    found = saelib.diagnose(X[:40], d_sae=4096, k=8)
    assert found.confidence == "low"
    assert sum("is accepted up to" in reason for reason in found.reasons) == 3
    assert any(reason.startswith("None of them is accepted") for reason in found.reasons)


def test_the_landscape_marks_what_was_asked_for(expected: saelib.Diagnosis) -> None:
    grid = expected.landscape
    row, column = grid.d_sae.index(256), grid.k.index(8)
    assert grid.dead_total["raw"][row][column] == expected.predicted["raw"].dead_total
    dead = np.array(grid.dead_total["raw"], np.float64)
    known = ~np.isnan(dead)
    assert known[row, column]
    # More latents for the same k: more dead. More selected: fewer dead.
    assert (np.diff(dead[1:], axis=0)[~np.isnan(np.diff(dead[1:], axis=0))] > -1e-9).all()
    assert (np.diff(dead, axis=1)[~np.isnan(np.diff(dead, axis=1))] < 1e-9).all()


def test_it_prints_itself_within_the_width(expected: saelib.Diagnosis) -> None:
    text = str(expected)
    assert text.startswith(expected.verdict[:60])
    assert "mean_center" in text
    assert repr(expected) == "Diagnosis('activations', 3,000 tokens x 24, d_sae=256, k=8: mean_center)"


def test_names_from_outside_are_escaped_in_the_card() -> None:
    html = saelib.diagnose(X, d_sae=64, k=4, name="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_page_stands_alone(expected: saelib.Diagnosis, tmp_path: Path) -> None:
    expected.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "http" not in page.replace("http-equiv", "")


def test_too_few_rows_to_whiten_leave_the_others(expected: saelib.Diagnosis) -> None:
    found = saelib.diagnose(X[:20], d_sae=64, k=4)
    assert set(found.measured) == {"raw", "center_mean", "center_median"}
    assert found.confidence == "low"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_sae": 8, "k": 9}, "k = 9, d_sae = 8: k must lie between 1 and d_sae"),
        ({"d_sae": 10**20, "k": 9}, "at most 1,000,000,000 latents and 1,000 dictionaries"),
        ({"d_sae": 8, "k": 2, "dictionaries": 10**6}, "at most 1,000,000,000 latents and 1,000 dictionaries"),
        ({"tokens": 1}, "at least 2 tokens"),
        ({"architecture": "gated"}, "no architecture 'gated'; should be one of topk"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        saelib.diagnose(X, **options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((100, 8), np.nan, np.float32), "NaN"),
        (np.ones((100, 8), np.float32), "all 100 tokens are the same"),
        (np.ones((100, 8), int), "holds int64"),
    ],
)
def test_activations_that_say_nothing_are_refused(x: NDArray[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        saelib.diagnose(x, d_sae=64, k=4)
