"""Every unreadable file is refused in one clear sentence, without a library's advice or Python errors in it."""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import zarr
from safetensors.numpy import save_file

from saelib.activations.open import open_rows
from saelib.errors import UserError

VALUES = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
GARBAGE = np.random.default_rng(1).bytes(3000)
SAVED: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "npy": lambda path, values: np.save(path, values),
    "npz": lambda path, values: np.savez(path, acts=values),
    "safetensors": lambda path, values: save_file({"acts": values}, path),
    "pt": lambda path, values: torch.save({"acts": torch.from_numpy(values)}, path),
    "h5": lambda path, values: h5py.File(path, "w").create_dataset("acts", data=values).file.close(),
    "parquet": lambda path, values: parquet.write_table(pa.table({"acts": values.tolist()}), path),
    "arrow": lambda path, values: write_arrow(path, pa.table({"acts": values.tolist()})),
    "zarr": lambda path, values: zarr.create_array(path, data=values),
}


class Unsafe:
    """An object whose pickle runs code."""


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_all(location: object) -> None:
    rows = open_rows(str(location))
    rows.block(0, rows.shape[0])


def refusal(location: object) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            read_all(location)
    text = str(caught.value)
    assert "\n" not in text
    assert not re.search(
        r"pickle|weights_only|Errno|errno|<class|object at|b'|dtype|Traceback|numpy\.|torch\.[a-r]", text
    )
    return text


@pytest.mark.parametrize("suffix", SAVED)
@pytest.mark.parametrize("kind", ["garbage", "empty", "text", "head", "half", "tail"])
def test_damaged_files(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"acts.{suffix}"
    SAVED[suffix](path, VALUES)
    file = path / "zarr.json" if path.is_dir() else path
    whole = file.read_bytes()
    cut = {"head": 9, "half": len(whole) // 2, "tail": len(whole) - 1}
    made = {"garbage": GARBAGE, "empty": b"", "text": b"not an array\n"}
    file.write_bytes(made[kind] if kind in made else whole[: cut[kind]])
    assert re.search(r"damaged|cut short|not a zarr", refusal(path))


ARRAYS = {
    "flat": (VALUES[0], r"the array is \[6\]; should be \[tokens, d_in\] or \[examples, context, d_in\]"),
    "four axes": (VALUES.reshape(3, 4, 25, 6), r"\[3, 4, 25, 6\]; should be"),
    "no rows": (VALUES[:0], "is empty"),
    "no columns": (VALUES[:, :0], "is empty"),
    "integers": (np.ones((3, 3), np.int64), "holds int64; should be floating point"),
    "bytes": (np.ones((3, 3), np.uint8), "holds uint8; should be floating point"),
    "truth": (np.ones((3, 3), bool), "holds bool; should be floating point"),
}


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "pt", "h5", "zarr"])
def test_arrays_of_other_shapes_and_types(tmp_path: Path, suffix: str, array: str) -> None:
    values, expected = ARRAYS[array]
    SAVED[suffix](tmp_path / f"a.{suffix}", values)
    assert re.search(expected, refusal(tmp_path / f"a.{suffix}"))


def test_types_that_only_numpy_saves(tmp_path: Path) -> None:
    def refused(values: np.ndarray) -> str:
        np.save(tmp_path / "a.npy", values, allow_pickle=True)
        return refusal(tmp_path / "a.npy")

    assert "holds raw values of 2 bytes, as numpy saves bfloat16" in refused(VALUES.astype(ml_dtypes.bfloat16))
    assert "holds complex64" in refused(VALUES + 1j)
    assert "holds Python objects" in refused(np.array([{"a": 1}], object))
    assert "holds text" in refused(np.array([["a", "b"]]))
    assert "holds records" in refused(np.zeros((3, 2), [("a", "f4")]))
    assert "holds datetime64" in refused(np.zeros((3, 2), "M8[s]"))


def test_npy_headers_that_lie(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    whole = (tmp_path / "a.npy").read_bytes()
    for shape, expected in {
        b"(301, 6)": "cut short; an array [301, 6] takes 7,352 bytes, but the file has 7,328",
        b"(299, 6)": "24 bytes follow the array [299, 6]",
        b"(-30, 6)": "damaged",
        b"(9e9, 6)": "damaged",
        b"(  6**9)": "damaged",
    }.items():
        (tmp_path / "a.npy").write_bytes(whole.replace(b"(300, 6)", shape))
        assert expected in refusal(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(whole + whole)
    assert "7,328 bytes follow the array [300, 6]; perhaps several arrays" in refusal(tmp_path / "a.npy")


def test_archives_with_a_changed_bit(tmp_path: Path) -> None:
    for suffix in ("npz", "pt"):
        SAVED[suffix](tmp_path / f"a.{suffix}", VALUES)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        start = archive.infolist()[0].header_offset
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[start + 1000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "holds no array" in refusal(tmp_path / "odd.npz")


def test_names_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", acts=VALUES, other=VALUES)
    assert "holds 2 arrays (acts, other); name one, as in" in refusal(tmp_path / "a.npz")
    assert refusal(tmp_path / "a.npz").endswith("a.npz::acts")
    assert "no array 'act'; it holds: acts, other" in refusal(f"{tmp_path}/a.npz::act")
    np.save(tmp_path / "a.npy", VALUES)
    assert "leave '::acts' out" in refusal(f"{tmp_path}/a.npy::acts")
    many = {f"layer_{index}": torch.ones(3, 3) for index in range(500)}
    torch.save(many, tmp_path / "many.pt")
    assert "holds 500 arrays" in refusal(tmp_path / "many.pt")
    assert "and 488 more" in refusal(tmp_path / "many.pt")


def test_torch_files_of_anything_but_plain_tensors(tmp_path: Path) -> None:
    def refused(content: Any) -> str:
        torch.save(content, tmp_path / "a.pt")
        return refusal(tmp_path / "a.pt")

    assert "holds Python objects beside tensors" in refused({"a": Unsafe()})
    assert "holds Python objects beside tensors" in refused(np.ones((3, 3)))
    assert "holds no array" in refused({"step": 3, "name": "x"})
    assert "holds a sparse tensor of float32" in refused(torch.eye(5).to_sparse())
    assert "holds complex64" in refused(torch.ones(3, 3, dtype=torch.complex64))


def test_hdf5_files_that_lead_elsewhere(tmp_path: Path) -> None:
    SAVED["h5"](tmp_path / "a.h5", VALUES)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["link"] = h5py.ExternalLink("a.h5", "/acts")
    assert "no array 'link'; it holds: none" in refusal(f"{tmp_path}/b.h5::link")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        layout = h5py.VirtualLayout((300, 6), "f4")
        layout[:] = h5py.VirtualSource("a.h5", "acts", (300, 6))
        file.create_virtual_dataset("acts", layout)
    assert "the values of 'acts' are stored in other files" in refusal(tmp_path / "c.h5")
    (tmp_path / "raw.bin").write_bytes(VALUES.tobytes())
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("acts", (300, 6), "f4", external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)])
    assert "the values of 'acts' are stored in other files" in refusal(tmp_path / "d.h5")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_columns_that_are_no_arrays(tmp_path: Path, suffix: str) -> None:
    def refused(member: str = "", **columns: Any) -> str:
        path = tmp_path / f"a.{suffix}"
        table = pa.table(columns)
        parquet.write_table(table, path) if suffix == "parquet" else write_arrow(path, table)
        return refusal(f"{path}::{member}" if member else path)

    assert "row 2 holds a list of 1, others of 2" in refused(a=[[1.0, 2.0], [3.0, 4.0], [5.0]])
    assert "row 1 holds a list of 1, others of 2" in refused(a=[[[1.0, 2.0]], [[3.0]]])
    assert "row 1 holds a list of 2, others of 1" in refused(a=[[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]])
    assert "row 1 is empty" in refused(a=[[1.0, 2.0], None])
    assert "row 1 is empty" in refused(a=[[[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], None]])
    assert "row 1 has an empty cell" in refused(a=[[1.0, 2.0], [3.0, None]])
    assert "save one column of lists" in refused(a=[1.0, 2.0], b=[1.0, 2.0])
    assert "none of its 2 columns holds lists" in refused(a=[[1, 2], [3, 4]], b=["x", "y"])
    assert "the array holds int64" in refused("a", a=[[1, 2], [3, 4]])
    assert "column 'a' holds string" in refused("a", a=["x", "y"])
    assert "no array 'c'; it holds: a, b" in refused("c", a=[[1.0]], b=[[1.0]], d=["x"])
    assert "holds 2 arrays (a, b)" in refused(a=[[1.0]], b=[[1.0]])
    assert "is empty" in refused(a=pa.array([], pa.list_(pa.float32())))
    assert "is empty" in refused(a=pa.array([[], []], pa.list_(pa.float32())))


def test_data_sets_that_are_damaged_or_lead_elsewhere(tmp_path: Path) -> None:
    write_arrow(tmp_path / "secret.arrow", pa.table({"a": VALUES.tolist()}))
    folder = tmp_path / "set"
    folder.mkdir()

    def refused(state: str) -> str:
        (folder / "state.json").write_text(state)
        return refusal(folder)

    assert "names files outside of its folder" in refused(
        json.dumps({"_data_files": [{"filename": "../secret.arrow"}]})
    )
    outside = str(tmp_path / "secret.arrow")
    assert "names files outside of its folder" in refused(json.dumps({"_data_files": [{"filename": outside}]}))
    assert "1 of its 1 files are missing" in refused(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    assert "damaged" in refused("{")
    assert "damaged" in refused("{}")
    assert "damaged" in refused('{"_data_files": []}')
    (folder / "state.json").rename(folder / "dataset_dict.json")
    assert "a data set of 0 splits" in refusal(folder)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("1.npy", VALUES)
    os.mkfifo("pipe.npy")
    Path("a.csv").write_text("1,2")
    Path("empty").mkdir()
    Path("folder.npy").mkdir()
    Path("file.zarr").write_text("")
    zarr.create_group("group.zarr")
    assert "nothing.npy: no such file or folder" in refusal("nothing.npy")
    assert "no file matches this pattern" in refusal("*.pt")
    assert "cannot read '.csv' files; allowed: .npy, .npz, .safetensors, .pt" in refusal("a.csv")
    assert "not a file" in refusal("pipe.npy")
    assert "holds none of the files that can be read (.npy," in refusal("empty")
    assert "holds none of the files that can be read (.npy," in refusal("folder.npy")
    assert "not a zarr array or group" in refusal("file.zarr")
    assert "holds no array" in refusal("group.zarr")
    assert "no file is named" in refusal("")
    for url in ("https://x.org/a.npy", "hf://datasets/org/acts", "gs://bucket/acts.npy", "https:/x.org/a.npy"):
        assert "is a URL; download it first" in refusal(url)
    torch.save(torch.ones(3, 3), "2.pt")
    np.save("3.npy", VALUES[:, :2])
    Path("pipe.npy").unlink()
    Path("file.zarr").unlink()
    assert "files of several formats (3 .npy, 1 .zarr, 1 .pt)" in refusal(".").replace(
        "1 .pt, 1 .zarr", "1 .zarr, 1 .pt"
    )
    assert refusal(".").endswith("as in './*.npy'")
    assert "the files differ in d_in (1.npy has 6, 3.npy has 2)" in refusal("[0-9].npy")
