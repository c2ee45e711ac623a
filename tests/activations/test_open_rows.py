"""The same numbers, whatever format they lie in, with two axes or three, in one file or in many."""

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import h5py
import ml_dtypes
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import zarr
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from saelib.activations.open import FileRows, open_rows
from saelib.activations.rows import Rows, read_float32

VALUES = np.random.default_rng(0).standard_normal((5000, 6)).astype(np.float32)


def save_zarr(values: np.ndarray, path: Path) -> None:
    zarr.create_array(path, data=values, chunks=(700, *values.shape[1:]))


def save_sharded(values: np.ndarray, path: Path) -> None:
    zarr.create_array(path, data=values, chunks=(50, *values.shape[1:]), shards=(500, *values.shape[1:]))


def save_h5(values: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("blocks/3", data=values, chunks=True, compression="gzip")
        file["link"] = h5py.ExternalLink("elsewhere.h5", "/acts")


def fixed(values: np.ndarray, inner: Callable[..., Any] = pa.FixedSizeListArray.from_arrays) -> pa.Array:
    column = pa.array(values.ravel())
    for size in reversed(values.shape[1:]):
        column = inner(column, size)
    return column


def large(values: np.ndarray) -> pa.Array:
    def inner(column: pa.Array, size: int) -> pa.Array:
        return pa.LargeListArray.from_arrays(np.arange(0, len(column) + 1, size), column)

    return fixed(values, inner)


def table(column: pa.Array) -> pa.Table:
    tokens = pa.array([[1, 2]] * len(column))
    return pa.table({"token_ids": tokens, "acts": column, "text": ["x"] * len(column)})


def save_arrow(values: np.ndarray, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table(fixed(values)).schema) as writer:
        writer.write_table(table(fixed(values)), max_chunksize=333)


def save_stream(values: np.ndarray, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table(large(values)).schema) as writer:
        writer.write_table(table(large(values)), max_chunksize=333)


def save_data_set(values: np.ndarray, path: Path) -> None:
    """Saves activations as SAELens caches them: a column named by the hook, [context, d_in] per row, and token ids."""
    kinds: dict[str, Any] = {"token_ids": datasets.List(datasets.Value("int32"))}
    array = datasets.Array2D(values.shape[1:], "float32") if values.ndim == 3 else datasets.List(
        datasets.Value("float32"), length=values.shape[1]
    )  # fmt: skip
    content = {"blocks.0.hook_mlp_out": list(values), "token_ids": [[1, 2]] * len(values)}
    features = datasets.Features({"blocks.0.hook_mlp_out": array} | kinds)
    datasets.Dataset.from_dict(content, features=features).save_to_disk(path, num_shards=3)


FORMATS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "a.npy": lambda values, path: np.save(path, values),
    "fortran.npy": lambda values, path: np.save(path, np.asfortranarray(values)),
    "big_endian.npy": lambda values, path: np.save(path, values.astype(">f4")),
    "double.NPY": lambda values, path: path.write_bytes(npy_bytes(values.astype(np.float64))),
    "long_double.npy": lambda values, path: np.save(path, values.astype(np.longdouble)),
    "a.npz": lambda values, path: np.savez(path, acts=values),
    "c.npz::acts": lambda values, path: np.savez_compressed(path, acts=values, other=values[:5]),
    "a.safetensors": lambda values, path: save_file({"acts": values}, path),
    "a.pt": lambda values, path: torch.save(torch.from_numpy(values), path),
    "named.pt": lambda values, path: torch.save({"acts": torch.from_numpy(values), "step": 3}, path),
    "strided.pth": lambda values, path: torch.save(torch.from_numpy(np.repeat(values, 2, 0))[::2], path),
    "nested.pt::3/acts": lambda values, path: torch.save(
        {"3": {"acts": torch.nn.Parameter(torch.from_numpy(values))}, "4": [torch.ones(3, 3)]}, path
    ),
    "before_1_6.pt": lambda values, path: torch.save(
        torch.from_numpy(values), path, _use_new_zipfile_serialization=False
    ),
    "a.zarr": save_zarr,
    "sharded.zarr": save_sharded,
    "a.h5": save_h5,
    "a.hdf5::blocks/3": save_h5,
    "fixed.parquet": lambda values, path: parquet.write_table(table(fixed(values)), path, row_group_size=777),
    "large.parquet::acts": lambda values, path: parquet.write_table(table(large(values)), path),
    "polars.parquet": lambda values, path: pl.DataFrame({"acts": values.tolist()}).write_parquet(path),
    "a.arrow": save_arrow,
    "stream.arrow": save_stream,
    "data_set": save_data_set,
    "data_set_two::blocks.0.hook_mlp_out": save_data_set,
}
ONE_OF_EACH = ["a.npy", "a.npz", "a.safetensors", "a.pt", "a.zarr", "a.h5", "fixed.parquet", "a.arrow"]


def npy_bytes(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def save(name: str, values: np.ndarray, folder: Path) -> str:
    FORMATS[name](values, folder / name.partition("::")[0])
    return str(folder / name)


def read(rows: Rows, step: int = 999) -> np.ndarray:
    tokens = rows.shape[0]
    return np.concatenate([rows.block(start, min(start + step, tokens)) for start in range(0, tokens, step)])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = open_rows(save(name, VALUES, tmp_path))
    assert rows.shape == VALUES.shape
    np.testing.assert_array_equal(read(rows), VALUES)
    found = read_float32(rows, 3, 5)
    assert found.dtype == np.float32
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, VALUES[3:5])


@pytest.mark.parametrize("name", FORMATS)
def test_three_axes_are_rows_of_examples(tmp_path: Path, name: str) -> None:
    rows = open_rows(save(name, VALUES.reshape(200, 25, 6), tmp_path))
    assert isinstance(rows, FileRows)
    assert (rows.shape, rows.context) == ((5000, 6), 25)
    assert any("is read as 5,000 rows of 6" in note for note in rows.notes)
    np.testing.assert_array_equal(read(rows, 7 * 13), VALUES)
    np.testing.assert_array_equal(rows.block(24, 26), VALUES[24:26])


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["a.npy", "a.safetensors", "a.pt", "a.zarr", "a.h5", "fixed.parquet", "a.arrow"])
def test_widths_of_floating_point_are_kept(tmp_path: Path, name: str, kind: str) -> None:
    values = VALUES.astype(kind)
    block = open_rows(save(name, values, tmp_path)).block(0, 5000)
    assert block.dtype == kind
    np.testing.assert_array_equal(block, values)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        (torch.bfloat16, ml_dtypes.bfloat16),
        (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
        (torch.float8_e5m2, ml_dtypes.float8_e5m2),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_types_that_numpy_lacks_are_read_without_loss(tmp_path: Path, kind: Any, reference: Any, suffix: str) -> None:
    tensor = torch.from_numpy(VALUES).to(kind)
    file = tmp_path / f"x.{suffix}"
    save_torch_file({"x": tensor}, file) if suffix == "safetensors" else torch.save(tensor, file)
    np.testing.assert_array_equal(read(open_rows(file)), VALUES.astype(reference).astype(np.float32))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_folders_and_patterns_are_read_in_natural_order(tmp_path: Path, name: str) -> None:
    suffix = name.rpartition(".")[2]
    cuts = [0, 100, 1300, 1310, 3000, 3500, 3600, 3700, 3800, 3900, 4000, 5000]
    for index, (start, stop) in enumerate(pairwise(cuts)):
        FORMATS[name](VALUES[start:stop], tmp_path / f"acts_{index}.{suffix}")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.npy").write_text("")
    for location in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/acts_*.{suffix}", f"{tmp_path}/acts_[0-9]*"):
        rows = open_rows(location)
        assert isinstance(rows, FileRows)
        assert rows.shape == (5000, 6)
        np.testing.assert_array_equal(read(rows), VALUES)
        assert rows.notes[0] == f"11 files, acts_0.{suffix} to acts_10.{suffix}, one after another"
    assert open_rows(tmp_path).notes[1] == "2 others passed over (1 .json, 1 .txt)"  # pyright: ignore


@pytest.mark.parametrize(
    ("folders", "counted"), [(1, "1 other passed over (1 folder)"), (2, "2 others passed over (2 folders)")]
)
def test_a_folder_of_one_file_and_of_folders(tmp_path: Path, folders: int, counted: str) -> None:
    np.save(tmp_path / "acts.npy", VALUES)
    for index in range(folders):
        (tmp_path / f"more_{index}").mkdir()
    assert open_rows(tmp_path).notes == ["1 file, acts.npy", counted]  # pyright: ignore


def test_folders_of_zarr_arrays_and_of_data_sets(tmp_path: Path) -> None:
    """SAELens leaves a data set for each buffer where it is stopped before it has put them together."""
    for index in range(3):
        values = VALUES[index * 100 : (index + 1) * 100].reshape(20, 5, 6)
        save_data_set(values, tmp_path / "sets" / f"shard_0000{index}")
        (tmp_path / "arrays").mkdir(exist_ok=True)
        save_zarr(values, tmp_path / "arrays" / f"{index}")
    for location in ("sets", "arrays", "sets/shard_*", "arrays/[0-9]"):
        np.testing.assert_array_equal(read(open_rows(tmp_path / location)), VALUES[:300])


def test_shards_of_arrays_with_names(tmp_path: Path) -> None:
    for index in range(2):
        save_file({"a": VALUES[index::2].copy(), "b": VALUES[:3]}, tmp_path / f"{index}.safetensors")
    np.testing.assert_array_equal(read(open_rows(f"{tmp_path}/*.safetensors::a"))[:2500], VALUES[::2])


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    np.save(tmp_path / "acts[1].npy", VALUES)
    np.save(tmp_path / "acts1.npy", VALUES[:3])
    assert open_rows(tmp_path / "acts[1].npy").shape == (5000, 6)


def test_shards_of_examples_keep_their_context(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", VALUES[:100].reshape(4, 25, 6))
    np.save(tmp_path / "1.npy", VALUES[100:].reshape(196, 25, 6))
    rows = open_rows(tmp_path)
    assert isinstance(rows, FileRows)
    assert rows.context == 25
    np.testing.assert_array_equal(read(rows), VALUES)
    np.save(tmp_path / "1.npy", VALUES[100:].reshape(98, 50, 6))
    rows = open_rows(tmp_path)
    assert isinstance(rows, FileRows)
    assert rows.context == 1
    np.testing.assert_array_equal(read(rows), VALUES)


def test_a_data_set_of_splits_is_named_by_its_folder(tmp_path: Path) -> None:
    save_data_set(VALUES[:40], tmp_path / "one")
    loaded = datasets.load_from_disk(tmp_path / "one")
    assert isinstance(loaded, datasets.Dataset)
    datasets.DatasetDict({"train": loaded, "test": loaded}).save_to_disk(tmp_path / "splits")
    np.testing.assert_array_equal(read(open_rows(tmp_path / "splits" / "train")), VALUES[:40])
    # A selection is saved as the rows that it selects.
    loaded.select([7, 3]).save_to_disk(tmp_path / "two")
    np.testing.assert_array_equal(read(open_rows(tmp_path / "two")), VALUES[[7, 3]])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_threads_may_read_at_the_same_time(tmp_path: Path, name: str) -> None:
    rows = open_rows(save(name, VALUES, tmp_path))
    starts = np.random.default_rng(0).integers(0, 4900, 100).tolist()
    with ThreadPoolExecutor(4) as pool:
        for start, block in zip(starts, pool.map(lambda start: rows.block(start, start + 100), starts), strict=True):
            np.testing.assert_array_equal(block, VALUES[start : start + 100])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux's /proc")
def test_nothing_is_loaded_whole(tmp_path: Path) -> None:
    """Opening eight files of 72 MB and reading both ends of each takes less than half of that memory.

    Parquet takes most of it: about 150 MB to unpack a column, whatever its size.
    """
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from saelib.activations.open import open_rows
folder, names = sys.argv[1], sys.argv[2:]
def peak():  # not ru_maxrss, which starts from the memory of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
for name in names:  # whatever is imported and set up once
    open_rows(folder + "/small/" + name).block(0, 10)
before = peak()
for name in names:
    rows = open_rows(folder + "/" + name)
    rows.block(0, 4096)
    rows.block(rows.shape[0] - 100, rows.shape[0])
print(peak() - before)
"""
    (tmp_path / "small").mkdir()
    values = np.tile(VALUES[:1000], (300, 10))
    for name in ONE_OF_EACH:
        save(name, values[:10], tmp_path / "small")
        save(name, values, tmp_path)
    call = [sys.executable, "-c", script, str(tmp_path), *ONE_OF_EACH]
    grown = int(subprocess.run(call, capture_output=True, text=True, check=True).stdout) * 1024
    assert grown < len(ONE_OF_EACH) * values.nbytes / 2
