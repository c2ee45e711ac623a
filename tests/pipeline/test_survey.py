"""What will end an extraction is said by `saelib plan`, before a model is loaded, in the words of extraction itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract.stage import extract
from saelib.pipeline.needs import suite_needs

GPT = {"family": "transformers", "weights": {"path": "."}, "max_length": 50}


def suite(folder: Path, dataset: dict[str, Any], source: dict[str, Any] = GPT, **options: Any) -> Config:
    return check_config(
        {
            "results": str(folder / "results"),
            "datasets": {"d": dataset},
            "models": {"m": {"domain": "x", "source": source, "dataset": "d", "layers": 1}},
            "extraction": {"tokens": 1000, "heldout_tokens": 300},
            **options,
        },
        "test",
    )


def text(folder: Path, **options: Any) -> dict[str, Any]:
    return {"kind": "text", "files": [{"path": str(folder)}], **options}


def said(config: Config) -> list[str]:
    return suite_needs(config)[0].missing


def write(folder: Path, documents: list[str]) -> Path:
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number}.txt").write_text(document)
    return folder


def test_documents_that_are_cut_short_name_the_setting_that_helps(tmp_path: Path, tiny_gpt2: Path) -> None:
    folder = write(tmp_path / "d", [f"{number} and so on. " * 300 for number in range(6)])
    source = GPT | {"weights": {"path": str(tiny_gpt2)}}
    config = suite(tmp_path, text(folder), source)
    (train, heldout) = said(config)
    words = r"set datasets\.d\.characters to about 200 if its \d examples are longer than the 50 tokens "
    assert train.startswith("m: its data give at most ")
    assert "train tokens, 1000 are asked for (extraction.tokens); set datasets.d.characters to about 200" in train
    assert "heldout tokens, 300 are asked for (extraction.heldout_tokens); " in heldout
    assert "raise heldout_fraction (now 0.3)" in heldout
    with pytest.raises(UserError, match=rf"m: its data give \d+ train tokens, 1000 are asked for.*{words}"):
        extract("m", config, {1: "key"}, {1: tmp_path / "store"})
    assert said(suite(tmp_path, text(folder, characters=200), source)) == []
    assert said(suite(tmp_path, text(folder), source | {"long": "split"})) == []


def test_the_bound_is_of_bytes_where_documents_are_short(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [f"doc{number:02}" for number in range(60)])  # 5 bytes and a blank each
    lines = said(suite(tmp_path, text(folder)))
    found = [int(line.split("at most ")[1].split()[0]) for line in lines]
    assert sum(found) == 360
    assert "(60 examples now)" not in lines[0]
    assert said(suite(tmp_path, text(folder), extraction={"tokens": 200, "heldout_tokens": 50})) == []


def test_texts_that_cannot_be_read_or_split_are_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", ["short"])
    (line,) = said(suite(tmp_path, text(folder)))
    assert "has one document only" in line
    (folder / "1.txt").write_bytes(b"caf\xe9")
    (line,) = said(suite(tmp_path, text(folder)))
    assert line.endswith("1.txt: not readable as text: byte 3 (0xe9) is not UTF-8; save the file as UTF-8")
    (line,) = said(suite(tmp_path, text(tmp_path / "nowhere")))
    assert line == f"no file or folder {tmp_path / 'nowhere'}"


def test_a_lone_long_text_is_enough(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [" ".join(f"word{number}" for number in range(9000))])
    assert said(suite(tmp_path, text(folder))) == []


def test_files_left_out_are_noted(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [f"document {number} " * 50 for number in range(40)])
    for number in range(9):
        (folder / f"{number}.csv").write_text("?")
    needs = suite_needs(suite(tmp_path, text(folder)))[0]
    assert "data 'd': 9 of 49 files are left out: .csv (9)" in needs.notes
    assert needs.missing == []


def test_images_that_are_too_few(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    dinov2 = {"family": "dinov2_onnx", "weights": {"path": "."}}
    dataset = {"kind": "images", "files": [{"path": str(folder)}], "size": 56, "crops": 10}

    def lines(number: int) -> list[str]:
        Image.new("RGB", (60, 60), (number, 0, 0)).save(folder / f"{number}.png")
        return said(suite(tmp_path, dataset, dinov2))

    assert "at least two groups" in lines(0)[0]
    train, heldout = lines(1)
    assert "raise datasets.d.crops (now 10, 10 in this split)" in train
    assert "name more images" in heldout
    for number in range(2, 9):
        lines(number)
    assert lines(9) == []  # 7 and 3 images with 10 crops of 16 patches


def test_arrays_that_do_not_fit_together_are_said_once(tmp_path: Path) -> None:
    files = {layer: tmp_path / f"{layer}.npy" for layer in (1, 2)}

    def lines() -> list[str]:
        source = {"family": "arrays", "files": {layer: str(file) for layer, file in files.items()}}
        model = {"domain": "x", "source": source, "layers": "1-2"}
        return said(check_config({"results": str(tmp_path / "r"), "models": {"m": model}}, "test"))

    np.save(files[1], np.ones((30_000, 4), np.float32))
    assert lines() == [f"no file or folder {files[2]}"]
    np.save(files[2], np.ones((29_999, 4), np.float32))
    (line,) = lines()
    assert "different numbers of rows" in line
    np.save(files[2], np.ones((30_000, 4), np.float32))
    assert lines() == []
    for file in files.values():
        np.save(file, np.ones((1_200, 4), np.float32))
    (line,) = lines()
    assert "has 1,200 rows; extraction.tokens" in line
    assert line.endswith("lower them, or give longer files")


def test_large_data_are_listed_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelib.pipeline.survey.READ_BYTES", 10)
    folder = write(tmp_path / "d", ["x" * 8, "y" * 8])
    assert said(suite(tmp_path, text(folder))) == []
