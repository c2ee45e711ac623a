"""The same numbers, whatever file they lie in; one clear sentence for what is no such file."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors.numpy import save_file

from saelib.arrays import open_rows
from saelib.errors import UserError
from saelib.rows import read_float32

VALUES = np.random.default_rng(0).standard_normal((5000, 6)).astype(np.float32)


def files(folder: Path) -> list[str]:
    np.save(folder / "a.npy", VALUES)
    np.save(folder / "f.npy", np.asfortranarray(VALUES))
    np.savez(folder / "b.npz", acts=VALUES)
    np.savez_compressed(folder / "c.npz", acts=VALUES, other=VALUES[:5])
    save_file({"acts": VALUES}, folder / "d.safetensors")
    zarr.create_array(folder / "e.zarr", data=VALUES, chunks=(700, 6))
    group = zarr.create_group(folder / "g.zarr")
    group.create_array("acts", data=VALUES, chunks=(512, 3))
    names = ["a.npy", "f.npy", "b.npz", "c.npz::acts", "d.safetensors", "e.zarr", "g.zarr", "g.zarr::acts"]
    return [str(folder / name) for name in names]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    for file in files(tmp_path):
        rows = open_rows(file)
        assert rows.shape == VALUES.shape
        parts = [rows.block(start, min(start + 999, 5000)) for start in range(0, 5000, 999)]
        np.testing.assert_array_equal(np.concatenate(parts), VALUES, err_msg=file)
        assert read_float32(rows, 3, 5).dtype == np.float32


def test_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    save_torch({"x": torch.from_numpy(VALUES).bfloat16()}, tmp_path / "x.safetensors")
    np.testing.assert_allclose(open_rows(tmp_path / "x.safetensors").block(0, 5000), VALUES, rtol=2**-8)


def test_mistakes_are_one_clear_sentence(tmp_path: Path) -> None:
    files(tmp_path)
    np.save(tmp_path / "flat.npy", VALUES[0])
    np.save(tmp_path / "whole.npy", np.ones((3, 3), np.int64))
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "empty.npy", VALUES[:0])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "d.safetensors").read_bytes()[:1000])
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "x.csv").write_text("1,2")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("notes.txt", "hello")
    holes = zarr.create_array(tmp_path / "holes.zarr", shape=(100, 4), chunks=(10, 4), dtype="f4")
    holes[:50] = 1
    for name, expected in {
        "nothing.npy": "no such file",
        "x.csv": "cannot read '.csv' files; allowed: .npy",
        "flat.npy": r"\[6\]; should be \[tokens, d_in\]",
        "whole.npy": "int64; should be floating point",
        "pickled.npy": "not a valid .npy file",
        "empty.npy": "empty",
        "cut.npy": "not a valid .npy file",
        "cut.safetensors": "not a valid .safetensors file",
        "text.npz": "not a valid .npz file",
        "odd.npz": r"holds 0 arrays \(\(none\)\)",
        "c.npz": r"holds 2 arrays \(acts, other\); name one, as in .*c.npz::acts",
        "c.npz::act": "no array 'act'; it holds: acts, other",
        "holes.zarr": "5 of 10 chunks are missing",
    }.items():
        with pytest.raises(UserError, match=expected):
            open_rows(tmp_path / name)
