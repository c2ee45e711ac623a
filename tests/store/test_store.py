"""The store keeps what was written, and refuses to return what was not."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from saelib.activations.open import open_rows
from saelib.activations.rows import read_float32
from saelib.errors import UserError
from saelib.store import StoreWriter, open_store, read_key, verify_store
from saelib.store.rounding import choose_offset
from tests.store.metadata import described

TRAIN, HELDOUT, D, CHUNK = 1000, 300, 24, 128


def activations(rows: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, D)) + mean).astype(np.float32)


def write(path: Path, train: np.ndarray, heldout: np.ndarray, *, finish: bool = True, window: int = 400) -> Path:
    path.mkdir()
    tokens = {"train": len(train), "heldout": len(heldout)}
    writer = StoreWriter(
        path, tokens=tokens, d_in=D, offset=choose_offset(train[:64]), chunk_rows=CHUNK, window_rows=window, seed=3
    )
    for split, acts in (("train", train), ("heldout", heldout)):
        for start in range(0, len(acts), 90):  # batches that fit neither chunks nor windows
            part = acts[start : start + 90]
            writer.append(split, part, np.arange(start, start + len(part), dtype=np.int32))
    if finish:
        writer.finish(described(writer))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write(tmp_path / "layer_3.zarr", activations(TRAIN), activations(HELDOUT, 1))


def in_original_order(path: Path, split: str) -> np.ndarray:
    opened = open_store(path)
    rows = opened.train if split == "train" else opened.heldout
    example = np.asarray(opened.arrays[split]["example"][:])
    values = np.empty(rows.shape, np.float32)
    values[example] = read_float32(rows, 0, rows.shape[0])
    return values


@pytest.mark.parametrize("mean", [0.0, 50.0, 5000.0])
def test_every_row_comes_back_with_its_signal_whatever_the_mean(tmp_path: Path, mean: float) -> None:
    train, heldout = activations(TRAIN, mean=mean), activations(HELDOUT, 1, mean=mean)
    path = write(tmp_path / "s.zarr", train, heldout)
    for split, written in (("train", train), ("heldout", heldout)):
        error = in_original_order(path, split) - written
        # float16 keeps 11 bits of the centered value; float32 rounds the sum with the offset
        assert np.abs(error).max() <= 6 * 2**-11 + mean * 2**-22
    assert open_store(path).metadata.dtypes == {"train": "float16", "heldout": "float16"}
    assert verify_store(path) == []


def test_plain_float16_would_have_lost_that_signal() -> None:
    train = activations(TRAIN, mean=5000.0)
    assert np.abs(train.astype(np.float16) - train).max() > 1


def test_rows_are_shuffled_within_windows_and_alike_in_every_store(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.zarr", activations(TRAIN, i), activations(HELDOUT, 9 + i)) for i in range(2)]
    first, second = (np.asarray(open_store(path).arrays["train"]["example"][:]) for path in paths)
    assert (first == second).all()
    assert sorted(first) == list(range(TRAIN))
    window = 400 // CHUNK * CHUNK
    for start in range(0, TRAIN, window):
        part = first[start : start + window]
        assert sorted(part) == list(range(start, start + len(part)))
        assert np.abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 0.2


@pytest.mark.parametrize("row", [0, 999])
def test_values_beyond_float16_make_the_split_float32(tmp_path: Path, row: int) -> None:
    train = activations(TRAIN)
    train[row, 5] = 3e5
    path = write(tmp_path / "s.zarr", train, activations(HELDOUT, 1))
    assert open_store(path).metadata.dtypes == {"train": "float32", "heldout": "float16"}
    assert verify_store(path) == []
    assert in_original_order(path, "train")[row, 5] == pytest.approx(3e5)
    np.testing.assert_allclose(in_original_order(path, "train")[:, :5], train[:, :5], atol=6 * 2**-11)


@pytest.mark.parametrize(
    ("special", "why"),
    [
        (lambda x: 1e-5 * (x - 40), r"by [1-9].* times its deviation from its own mean"),
        (lambda x: np.full_like(x, 0.1), "noise of a row whose values are all 0.1"),
        (lambda x: 4e3 * x, "the values of a row, up to .* are too large for float16"),
        (lambda x: 1e-30 * x, "times its deviation"),
    ],
    ids=["small", "constant", "large", "least"],
)
@pytest.mark.parametrize("place", [0, 400, TRAIN - 1])
def test_from_the_first_row_that_float16_loses_a_split_holds_what_it_is_given(
    tmp_path: Path, special: Callable[[np.ndarray], np.ndarray], why: str, place: int
) -> None:
    train, heldout = activations(TRAIN, mean=40.0), activations(HELDOUT, 1, mean=40.0)
    train[place] = special(train[place])
    store = open_store(write(tmp_path / "s.zarr", train, heldout))
    assert store.metadata.dtypes == {"train": "float32", "heldout": "float16"}
    assert set(store.metadata.reasons) == {"train"}
    assert re.search(why, store.metadata.reasons["train"])
    assert store.train.offset is None
    assert store.heldout.offset is not None
    back = in_original_order(tmp_path / "s.zarr", "train")
    np.testing.assert_array_equal(back[place // 90 * 90 :], train[place // 90 * 90 :])  # from that batch on
    np.testing.assert_allclose(back, train, atol=6 * 2**-11)


def test_norms_are_of_the_unrounded_activations(store: Path) -> None:
    opened = open_store(store)
    norm, example = (np.asarray(opened.arrays["train"][name][:]) for name in ("norm", "example"))
    np.testing.assert_allclose(norm, np.linalg.norm(activations(TRAIN)[example].astype(np.float64), axis=1), rtol=1e-6)


def test_all_zero_activations_are_stored_not_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "z.zarr", np.zeros((TRAIN, D), np.float32), np.zeros((HELDOUT, D), np.float32))
    assert verify_store(path) == []


def test_key_is_readable_without_opening_the_arrays(store: Path, tmp_path: Path) -> None:
    assert read_key(store) == "k" * 64
    assert read_key(tmp_path / "nothing.zarr") is None


def test_a_store_of_an_earlier_version_is_told_from_a_corrupt_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "s.zarr", activations(TRAIN), activations(HELDOUT))
    monkeypatch.setattr("saelib.store.layout.VERSION", 3)
    with pytest.raises(UserError, match=r"store version 2, but this saelib reads version 3; extract it again"):
        open_store(path)


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "u.zarr", activations(TRAIN), activations(HELDOUT, 1), finish=False)
    assert read_key(path) is None
    with pytest.raises(UserError, match=r"u\.zarr.*never finished"):
        open_store(path)
    assert len(verify_store(path)) == 1


def test_a_missing_chunk_is_refused_by_name(store: Path) -> None:
    (store / "train/acts/c/4/0").unlink()
    with pytest.raises(UserError, match="train/acts/c/4/0"):
        open_store(store)
    assert verify_store(store) == ["train/acts/c/4/0: missing"]


@pytest.mark.parametrize("chunk", ["train/acts/c/7/0", "heldout/acts/c/0/0", "train/norm/c/2", "heldout/example/c/0"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_chunk_is_refused_by_name(store: Path, chunk: str, damage: str) -> None:
    data = bytearray((store / chunk).read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 64
    (store / chunk).write_bytes(data if damage == "flip" else data[: len(data) // 2 if damage == "truncate" else 0])
    problems = verify_store(store)
    assert len(problems) == 1
    assert problems[0].startswith(chunk)
    if "acts" in chunk:
        opened = open_store(store)
        rows = opened.train if chunk.startswith("train") else opened.heldout
        with pytest.raises(UserError, match="corrupt chunk"):
            rows.block(0, rows.shape[0])


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(store: Path) -> None:
    """Every file, metadata included: either verification complains or what is read is what was written."""
    expected = {split: in_original_order(store, split) for split in ("train", "heldout")}
    chance = random.Random(0)
    for file in sorted(path for path in store.rglob("*") if path.is_file()):
        good = file.read_bytes()
        for _ in range(12 if file.name == "zarr.json" else 2):
            bad = bytearray(good)
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
            file.write_bytes(bad)
            if verify_store(store) == []:
                for split, values in expected.items():
                    np.testing.assert_array_equal(in_original_order(store, split), values, err_msg=str(file))
            file.write_bytes(good)


@pytest.mark.parametrize("array", ["offset", "train/acts", "heldout/norm", "train/example"])
@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["shape"].__setitem__(0, document["shape"][0] + 1),
        lambda document: document["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, 16),
        lambda document: document["chunk_key_encoding"]["configuration"].update(separator="."),
    ],
    ids=["shape", "chunks", "files of chunks"],
)
def test_an_array_that_is_not_the_stores_is_refused(store: Path, array: str, change: Callable[[dict], None]) -> None:
    """Read with such metadata, chunks are taken for missing ones, whose values are NaN."""
    file = store / array / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"corrupt .*{array}"):
        open_store(store)


def test_metadata_edited_by_hand_are_refused(store: Path) -> None:
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"]["layer"] = 4
    (store / "zarr.json").write_text(json.dumps(document))
    assert read_key(store) is None
    with pytest.raises(UserError, match="checksum"):
        open_store(store)


def test_a_foreign_zarr_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(UserError, match="not a saelib store"):
        open_store(tmp_path / "g.zarr")
    with pytest.raises(UserError, match="no such store"):
        open_store(tmp_path / "nowhere.zarr")


def test_a_store_opens_as_a_file_of_rows_of_either_split(store: Path):
    for name, split in (("", "train"), ("::train", "train"), ("::heldout", "heldout")):
        rows, expected = open_rows(f"{store}{name}"), getattr(open_store(store), split)
        assert rows.shape == expected.shape
        np.testing.assert_array_equal(read_float32(rows, 0, 90), read_float32(expected, 0, 90))
    with pytest.raises(UserError, match="no array 'test'; it holds: train, heldout"):
        open_rows(f"{store}::test")


def test_rows_know_their_examples_and_a_damaged_list_of_them_is_refused(store: Path):
    heldout = open_store(store).heldout
    numbers = heldout.examples()
    assert numbers.dtype == np.int32
    # Each row of this store is an example of its own, numbered as it was written.
    np.testing.assert_allclose(read_float32(heldout, 0, len(numbers)), activations(len(numbers), 1)[numbers], atol=1e-2)
    chunk = store / "heldout/example/c/0"
    spoilt = bytearray(chunk.read_bytes())
    spoilt[3] ^= 1
    chunk.write_bytes(spoilt)
    with pytest.raises(UserError, match="heldout/example: corrupt"):
        open_store(store).heldout.examples()
