"""Files in a folder that a data set does not read are counted and reported; some file has to be left to read."""

import gzip
import logging
import shutil

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from saelib.config.datasets import DatasetConfig
from saelib.datasets import listing_of, open_dataset
from saelib.errors import UserError

DATASET = TypeAdapter(DatasetConfig)
KINDS = {"text": {}, "images": {"size": 8}, "cifar10": {"size": 8}, "sequences": {"alphabet": "protein"}}


def config(kind, *paths):
    return DATASET.validate_python({"kind": kind, "files": [{"path": str(path)} for path in paths], **KINDS[kind]})


def fill(folder, names, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith((".txt", ".csv", ".heic", ".gz")):
            (folder / name).write_text(f"about {name}")
        else:
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(folder / name)


@pytest.mark.parametrize("kind", ["text", "images", "cifar10"])
def test_files_passed_over_are_counted_and_said(tmp_path, kind, caplog):
    own = "txt" if kind == "text" else "png"
    fill(tmp_path, [f"a{i}.{own}" for i in range(3)])
    for name in [*(f"b{i}.HEIC" for i in range(40)), *(f"c{i}.csv.gz" for i in range(9)), "README", ".hidden.heic"]:
        (tmp_path / name).write_text("something else")
    with caplog.at_level(logging.INFO):
        data = open_dataset(config(kind, tmp_path))
    said = "50 of 53 files are left out: .heic (40), .csv.gz (9), no suffix (1)"
    assert f"{kind}: {said}" in caplog.text
    assert "WARNING" in caplog.text
    found = listing_of(config(kind, tmp_path))
    assert found is not None
    assert (len(found.files), found.summary()) == (3, said)
    assert len({one.group for split in ("train", "heldout") for one in data.examples(split, 0, 0.3)}) == 3


@pytest.mark.parametrize("kind", ["text", "images", "cifar10"])
def test_a_folder_of_unknown_files_says_what_it_holds_and_what_is_read(tmp_path, kind):
    (tmp_path / "inside").mkdir()
    for number in range(12):
        (tmp_path / f"{number}.x{number}").write_text("?")
    with pytest.raises(
        UserError, match=rf"{kind}: no \.\w+, .* files in {tmp_path}; found: \.x\d+ \(1\), .* 4 more"
    ) as e:
        open_dataset(config(kind, tmp_path))
    assert ("1 folders inside are not looked into" in str(e.value)) == (kind != "cifar10")


@pytest.mark.parametrize("kind", ["text", "images", "cifar10"])
def test_a_file_that_is_named_by_itself_is_not_passed_over(tmp_path, kind):
    own = "txt" if kind == "text" else "png"
    fill(tmp_path, [f"a.{own}", f"b.{own}", "c.csv"])
    with pytest.raises(UserError, match=rf"{kind}: .*c\.csv is not one of the files that it reads: \.\w+, "):
        open_dataset(config(kind, tmp_path / f"a.{own}", tmp_path / "c.csv"))


def test_folders_that_are_not_looked_into_are_said(tmp_path, caplog):
    fill(tmp_path, ["a.png", "b.png"])
    fill(tmp_path / "cat", ["c.png"], seed=1)
    with caplog.at_level(logging.INFO):
        open_dataset(config("images", tmp_path))
    assert "1 folder inside not looked into" in caplog.text
    assert listing_of(config("cifar10", tmp_path)).files[-1].name == "c.png"  # which looks into them
    (tmp_path / "cat" / "d.fa").write_text(">a\nMKV\n>b\nMKL\n")
    (tmp_path / "x.fa").write_text(">a\nMKV\n>b\nMKL\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).unlink()
    with caplog.at_level(logging.INFO):
        open_dataset(config("sequences", tmp_path))
    assert "sequences: 1 folder inside not looked into" in caplog.text


def test_python_docs_have_no_files():
    assert listing_of(DATASET.validate_python({"kind": "python_docs"})) is None


def test_a_copy_of_an_image_is_in_one_split_once(tmp_path, caplog):
    fill(tmp_path, [f"{i}.png" for i in range(10)])
    for i in range(10):
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"{i} (1).png")
    with caplog.at_level(logging.INFO):
        data = open_dataset(config("images", tmp_path))
    train, heldout = ({one.content.tobytes() for one in data.examples(s, 0, 0.3)} for s in ("train", "heldout"))
    assert not train & heldout
    assert len(train | heldout) == 10
    assert "20 files, 10 of them copies of others, left out" in caplog.text


def test_text_that_is_packed_is_told_by_its_content(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_bytes(gzip.compress(f"document {number}".encode()))
    data = open_dataset(config("text", tmp_path))
    found = [one.content for split in ("train", "heldout") for one in data.examples(split, 0, 0.3)]
    assert sorted(found) == [f"document {number}" for number in range(4)]
