"""The family `arrays`: the stores hold what the files hold, and the rows of an example stay in one split."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from saelib.activations.rows import read_float32
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract import stage
from saelib.pipeline.needs import suite_needs
from saelib.pipeline.targets import wanted_targets
from saelib.store import open_store

VALUES = np.random.default_rng(0).standard_normal((6000, 8)).astype(np.float32)
# The first two columns say which row it is, whatever order a store has and float16 does to the rest.
VALUES[:, 0], VALUES[:, 1] = np.divmod(np.arange(6000), 80)


def suite(folder: Path, file: str, tokens: int = 5000, heldout: int = 800, **source: Any) -> Any:
    files = {"family": "arrays", "files": {1: file}} | source
    return check_config(
        {
            "results": str(folder / "results"),
            "models": {"saved": {"domain": "other", "source": files, "layers": 1}},
            "extraction": {"tokens": tokens, "heldout_tokens": heldout, "chunk_rows": 256, "window_rows": 512},
        },
        "test",
    )


def extract(config: Any) -> Path:
    path = config.store_path("saved", 1)
    stage.extract("saved", config, {1: "key"}, {1: path})
    return path


def key(config: Any) -> str:
    return next(target.key for target in wanted_targets(config) if target.stage == "extract")


def stored(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order that they had in the file, and the numbers of their examples."""
    store = open_store(path)
    rows = store.train if split == "train" else store.heldout
    acts = read_float32(rows, 0, rows.shape[0])
    order = np.argsort(np.round(acts[:, 0]) * 80 + np.round(acts[:, 1]))
    return acts[order], np.asarray(store.arrays[split]["example"][:])[order]  # pyright: ignore


@pytest.mark.parametrize("context", [1, 7, 100, 5000])
def test_examples_of_three_axes_stay_in_one_split(tmp_path: Path, context: int) -> None:
    examples = 6000 // context
    values = VALUES[: examples * context]
    np.save(tmp_path / "a.npy", values.reshape(examples, context, 8) if context > 1 else values)
    train, heldout = (5000, 800) if context < 5000 else (4000, 1000)
    if context == 5000:
        with pytest.raises(UserError, match=r"has 5,000 rows.*\(5000 rows of one example stay in one split\)"):
            extract(suite(tmp_path, str(tmp_path / "a.npy"), train, heldout))
        return
    path = extract(suite(tmp_path, str(tmp_path / "a.npy"), train, heldout))
    start = (len(values) - heldout) // context * context
    for split, first, count in (("train", 0, train), ("heldout", start, heldout)):
        found, example = stored(path, split)
        np.testing.assert_allclose(found, values[first : first + count], atol=0.04)
        np.testing.assert_array_equal(example, np.arange(count) // context)
    # No example's rows stand in both splits.
    assert (train - 1) // context < start // context


def test_a_pattern_of_shards_is_one_array_and_every_shard_counts_in_the_key(tmp_path: Path) -> None:
    for index in range(12):
        np.save(tmp_path / f"acts_{index}.npy", VALUES[index * 500 : (index + 1) * 500])
    pattern, folder = suite(tmp_path, f"{tmp_path}/acts_*.npy"), suite(tmp_path, str(tmp_path))
    found, _ = stored(extract(pattern), "train")
    np.testing.assert_allclose(found, VALUES[:5000], atol=0.04)
    before = key(pattern), key(folder)
    assert key(pattern) == before[0]
    np.save(tmp_path / "acts_7.npy", VALUES[:500])
    after = key(pattern), key(folder)
    assert not set(before) & set(after)
    (tmp_path / "acts_11.npy").unlink()
    assert not {key(pattern), key(folder)} & {*before, *after}


def test_a_home_folder_is_found_when_planning_and_when_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", VALUES)
    config = suite(tmp_path, "~/a.npy")
    assert suite_needs(config)[0].missing == []
    assert open_store(extract(config)).metadata.train_tokens == 5000
    assert suite_needs(suite(tmp_path, "~/b*.npy"))[0].missing == ["no file or folder ~/b*.npy"]
    assert suite_needs(suite(tmp_path, "~/*.npy"))[0].missing == []


def test_too_short_a_file_names_the_settings_that_help(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES[:500])
    expected = (
        r"a.npy: has 500 rows; extraction.tokens 5,000 and extraction.heldout_tokens 800 need 5,800; lower them, "
        "or give longer files"
    )
    with pytest.raises(UserError, match=expected):
        extract(suite(tmp_path, str(tmp_path / "a.npy")))


def test_nan_in_a_file_names_the_row_and_no_setting_of_a_forward_pass(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[4711, 3] = np.nan
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match="in the examples row 4711; leave them out of the files") as caught:
        extract(suite(tmp_path, str(tmp_path / "a.npy")))
    assert "dtype" not in str(caught.value)
    np.save(tmp_path / "a.npy", values.reshape(60, 100, 8))
    with pytest.raises(UserError, match=r"not finite \(1 NaN\), in the examples row 4700;"):
        extract(suite(tmp_path, str(tmp_path / "a.npy")))


def test_a_number_beyond_float32_comes_without_a_warning_of_numpy(tmp_path: Path) -> None:
    values = VALUES.astype(np.float64)
    values[7, 3] = 1e300
    np.save(tmp_path / "a.npy", values)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(UserError, match=r"in the examples row 7; .*beyond 3e38 a value is infinite"):
            extract(suite(tmp_path, str(tmp_path / "a.npy")))


def test_chunks_that_were_left_out_are_filled_where_the_suite_says_so(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[:500] = 0
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(500, 8))
    plain = suite(tmp_path, str(tmp_path / "a.zarr"))
    filled = suite(tmp_path, str(tmp_path / "a.zarr"), fill_missing_chunks=True)
    with pytest.raises(UserError, match=r"1 of 12 chunks are missing.*fill_missing_chunks: true next to `files`"):
        extract(plain)
    assert key(plain) != key(filled)
    found, _ = stored(extract(filled), "train")
    np.testing.assert_allclose(found, values[:5000], atol=0.04)


def test_layers_of_different_lengths_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", VALUES)
    np.save(tmp_path / "2.npy", VALUES[:10])
    files = {1: str(tmp_path / "1.npy"), 2: str(tmp_path / "2.npy")}
    config = suite(tmp_path, "", files=files)
    with pytest.raises(UserError, match=r"different numbers of rows \(.*1.npy 6,000, .*2.npy 10\)"):
        stage.extract("saved", config, {1: "a", 2: "b"}, {layer: tmp_path / f"{layer}.zarr" for layer in (1, 2)})
