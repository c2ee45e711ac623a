"""Chunks that a zarr or HDF5 file does not hold: counted one by one, in every layout, and filled only when asked."""

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from saelib.activations.open import open_rows
from saelib.errors import UserError

# 250 rows and 12 columns: the last shard, and the last chunk along both axes, reach beyond the array.
VALUES = np.random.default_rng(0).standard_normal((250, 12)).astype(np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {"chunks": (10, 5), "zarr_format": 3},
    "v2": {"chunks": (10, 5), "zarr_format": 2},
    "v2, dots": {"chunks": (10, 5), "zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v2 big-endian": {"chunks": (10, 5), "zarr_format": 2, "dtype": ">f4"},
    "sharded": {"chunks": (10, 5), "shards": (100, 10), "zarr_format": 3},
    "sharded, one": {"chunks": (50, 12), "shards": (50, 12), "zarr_format": 3},
    "v3, no compression": {"chunks": (64, 12), "zarr_format": 3, "compressors": None},
    "index at the start": {
        "chunks": (10, 5),
        "shards": {"shape": (100, 10), "index_location": "start"},
        "zarr_format": 3,
    },
}


def create(path: Path, layout: str, **options: Any) -> zarr.Array:
    return zarr.create_array(path, **({"shape": VALUES.shape, "dtype": "f4"} | LAYOUTS[layout] | options))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_arrays_are_read_and_no_hole_passes(tmp_path: Path, layout: str) -> None:
    array = create(tmp_path / "a.zarr", layout)
    array[:] = VALUES
    np.testing.assert_array_equal(open_rows(tmp_path / "a.zarr").block(0, 250), VALUES)
    files = [file for file in (tmp_path / "a.zarr").rglob("*") if file.is_file() and "z" not in file.name]
    outer = array.shards or array.chunks
    assert len(files) == -(-250 // outer[0]) * -(-12 // outer[1])
    for file in files:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=r"a.zarr: [1-9][0-9]* of [0-9]+ chunks are missing, the first at rows "):
            open_rows(tmp_path / "a.zarr")
        file.write_bytes(content)
    np.testing.assert_array_equal(open_rows(tmp_path / "a.zarr").block(0, 250), VALUES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_of_the_fill_value_that_zarr_left_out(tmp_path: Path, layout: str) -> None:
    values = VALUES.copy()
    rows = create(tmp_path / "probe.zarr", layout).chunks[0]
    values[rows : 2 * rows] = 0
    values[-rows // 2 :] = 0
    for write_empty, name in ((False, "without.zarr"), (True, "with.zarr")):
        create(tmp_path / name, layout, config={"write_empty_chunks": write_empty})[:] = values
    np.testing.assert_array_equal(open_rows(tmp_path / "with.zarr").block(0, 250), values)
    with pytest.raises(UserError, match=rf"rows {rows} to {2 * rows - 1}, and would be read as 0\. .*--fill-missing"):
        open_rows(tmp_path / "without.zarr")
    filled = open_rows(tmp_path / "without.zarr", fill_missing_chunks=True)
    np.testing.assert_array_equal(filled.block(0, 250), values)


def test_an_inner_chunk_left_out_of_a_shard_is_counted_exactly(tmp_path: Path) -> None:
    array = create(tmp_path / "a.zarr", "sharded")
    array[:20] = VALUES[:20]
    array[30:] = VALUES[30:]
    with pytest.raises(UserError, match="3 of 75 chunks are missing, the first at rows 20 to 29,"):
        open_rows(tmp_path / "a.zarr")


def test_an_array_that_was_never_written(tmp_path: Path) -> None:
    create(tmp_path / "a.zarr", "sharded")
    with pytest.raises(UserError, match="75 of 75 chunks are missing, the first at rows 0 to 9,"):
        open_rows(tmp_path / "a.zarr")


def test_a_shard_cut_short_or_damaged_is_no_data(tmp_path: Path) -> None:
    create(tmp_path / "a.zarr", "sharded")[:] = VALUES
    shard = tmp_path / "a.zarr" / "c" / "0" / "0"
    content = shard.read_bytes()
    for cut in (0, 7, len(content) // 2, len(content) - 1):
        shard.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"cut short|damaged"):
            open_rows(tmp_path / "a.zarr").block(0, 250)
    shard.write_bytes(b"\xff" * 8 + content[8:])
    with pytest.raises(UserError, match=r"rows 0 to 249 cannot be read: damaged"):
        open_rows(tmp_path / "a.zarr").block(0, 250)


def test_a_fill_value_of_nan_is_named(tmp_path: Path) -> None:
    create(tmp_path / "a.zarr", "v3", fill_value=float("nan"))[:200] = VALUES[:200]
    with pytest.raises(UserError, match=r"15 of 75 chunks are missing, the first at rows 200 to 209.* read as NaN"):
        open_rows(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_arrays_in_nested_groups(tmp_path: Path, version: Any) -> None:
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=version)
    inner = group.create_group("blocks").create_group("3")
    inner.create_array("acts", data=VALUES, chunks=(100, 12))
    rows = open_rows(f"{tmp_path / 'g.zarr'}::blocks/3/acts")
    np.testing.assert_array_equal(rows.block(0, 250), VALUES)
    assert open_rows(tmp_path / "g.zarr").shape == (250, 12)
    group.create_array("other", data=VALUES[:, :4])
    with pytest.raises(UserError, match=r"2 arrays \(blocks/3/acts, other\)|2 arrays \(other, blocks/3/acts\)"):
        open_rows(tmp_path / "g.zarr")
    with pytest.raises(UserError, match="no array 'blocks'; it holds: "):
        open_rows(f"{tmp_path / 'g.zarr'}::blocks")
    array = next(file for file in (tmp_path / "g.zarr" / "blocks" / "3" / "acts").rglob("*0*") if file.is_file())
    array.unlink()
    with pytest.raises(UserError, match="of 3 chunks are missing"):
        open_rows(f"{tmp_path / 'g.zarr'}::blocks/3/acts")


def test_other_files_in_a_group_are_no_warning(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g.zarr").create_array("acts", data=VALUES, chunks=(100, 12))
    (tmp_path / "g.zarr" / "notes").mkdir()
    (tmp_path / "g.zarr" / "notes" / "readme.txt").write_text("made by hand")
    (tmp_path / "g.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_rows(tmp_path / "g.zarr").shape == (250, 12)


def test_a_zarr_folder_needs_no_suffix(tmp_path: Path) -> None:
    create(tmp_path / "acts", "v2")[:] = VALUES
    np.testing.assert_array_equal(open_rows(tmp_path / "acts").block(3, 7), VALUES[3:7])


def test_shards_inside_of_shards_are_refused(tmp_path: Path) -> None:
    from zarr.codecs import BytesCodec, ShardingCodec

    inner = ShardingCodec(chunk_shape=(5, 12), codecs=[BytesCodec()])
    array = zarr.create(
        store=str(tmp_path / "a.zarr"),
        shape=(20, 12),
        chunks=(10, 12),
        dtype="f4",
        codecs=[ShardingCodec(chunk_shape=(10, 12), codecs=[inner])],
    )
    array[:] = 1
    with pytest.raises(UserError, match="shards inside of shards"):
        open_rows(tmp_path / "a.zarr")


def test_chunks_of_an_hdf5_file_that_were_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        whole = file.create_dataset("whole", VALUES.shape, "f4", chunks=(100, 12))
        whole[:] = VALUES
        file.create_dataset("holes", VALUES.shape, "f4", chunks=(100, 12))[:200] = VALUES[:200]
        file.create_dataset("plain", VALUES.shape, "f4")
    np.testing.assert_array_equal(open_rows(f"{tmp_path / 'a.h5'}::whole").block(0, 250), VALUES)
    with pytest.raises(UserError, match="1 of 3 chunks are missing, and would be read as 0"):
        open_rows(f"{tmp_path / 'a.h5'}::holes")
    with pytest.raises(UserError, match="1 of 1 chunks are missing"):
        open_rows(f"{tmp_path / 'a.h5'}::plain")
    filled = open_rows(f"{tmp_path / 'a.h5'}::holes", fill_missing_chunks=True).block(0, 250)
    np.testing.assert_array_equal(filled, np.where(np.arange(250)[:, None] < 200, VALUES, 0))
