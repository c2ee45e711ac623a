"""The two files of a layer: what is read is what was written, or an error."""

import json
from pathlib import Path

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.stats import LayerStats, compute_stats, load_arrays, load_stats, save_stats


@pytest.fixture(scope="module")
def stats() -> LayerStats:
    x = np.random.default_rng(0).standard_normal((600, 12)).astype(np.float32)
    x[:, 3] = 2
    return compute_stats(ArrayRows(x))


@pytest.fixture
def path(stats: LayerStats, tmp_path: Path) -> Path:
    path = tmp_path / "model" / "layer_3.json"
    save_stats(stats, path, "key-1")
    return path


def test_what_is_read_is_what_was_written(stats: LayerStats, path: Path) -> None:
    assert load_stats(path) == stats
    assert load_stats(path).key == "key-1"
    assert json.loads(path.read_text())["key"] == "key-1"
    arrays = load_arrays(path)
    assert arrays.keys() == stats.arrays.keys()
    for name, array in stats.arrays.items():
        assert arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(arrays[name], array)
    assert sorted(file.name for file in path.parent.iterdir()) == ["layer_3.json", "layer_3.safetensors"]


def test_names_and_shapes_are_the_documented_ones(path: Path) -> None:
    vectors = {
        "mean", "std", "center_median", "center_coordinate_median", "center_trimmed_mean", "ln_center_median",
        "ln_mean", "ln_std", "excess_kurtosis", "eigenvalues",
    }  # fmt: skip
    arrays = load_arrays(path)
    assert arrays.keys() == vectors | {"eigenvectors"}
    assert all(arrays[name].shape == (12,) and arrays[name].dtype == np.float64 for name in vectors)
    assert arrays["eigenvectors"].shape == (12, 12)


def test_the_same_rows_give_the_same_files(stats: LayerStats, path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    save_stats(stats, again, "key-1")
    assert again.read_bytes() == path.read_bytes()


def test_damaged_or_foreign_arrays_are_refused(path: Path) -> None:
    arrays = path.with_suffix(".safetensors")
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(UserError, match=r"layer_3.safetensors: its checksum is not the one in layer_3.json"):
        load_arrays(path)
    arrays.unlink()
    with pytest.raises(UserError, match=r"layer_3.safetensors: missing"):
        load_arrays(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "content: "), ("{}", "tokens: "), ('{"tokens": "4"}', "tokens: "), ("not json", "not valid JSON")],
)
def test_a_foreign_json_is_refused(path: Path, content: str, said: str) -> None:
    path.write_text(content)
    with pytest.raises(UserError, match=rf"layer_3\.json: {said}"):
        load_stats(path)
    with pytest.raises(UserError, match=r"layer_3\.json: (content|arrays_sha256|not valid JSON)"):
        load_arrays(path)


def test_a_crash_between_the_two_files_is_seen(stats: LayerStats, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New arrays beside the old JSON must not pass for a pair."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("saelib.stats.layer_stats.write_result", crash)
    other = compute_stats(ArrayRows(np.random.default_rng(1).standard_normal((600, 12))))
    with pytest.raises(KeyboardInterrupt):
        save_stats(other, path, "key-2")
    assert json.loads(path.read_text())["key"] == "key-1"
    with pytest.raises(UserError, match="checksum"):
        load_arrays(path)
