"""Whole images get the classes that the files of their data set store with them."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saelib import UserError
from saelib.config.datasets import Cifar10
from saelib.config.evaluation import ClassLabels, EvaluationConfig
from saelib.config.files import LocalFiles
from saelib.config.load import check_config
from saelib.datasets.base import Example
from saelib.datasets.cifar10 import open_dataset
from saelib.evaluation.class_labels import label_images
from saelib.evaluation.held_out import HeldOutBatch, SeenTables
from saelib.evaluation.layer_report import open_context

PIXELS = np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)
NUMBERS = [3, 0, 9, 3, 1, 0]
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def binary(*labels: Sequence[int], pixels: np.ndarray = PIXELS) -> bytes:
    """Records of CIFAR's binary version, with one or two labels each."""
    records = zip(pixels, *labels, strict=True)
    return b"".join(bytes(own) + image.transpose(2, 0, 1).tobytes() for image, *own in records)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def parquet(path: Path, **columns: Any) -> None:
    """Images as the hub stores them, in small row groups."""
    images = pa.array([{"bytes": png(image)} for image in PIXELS], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"img": images, **columns}), path, row_group_size=4)


def examples_of(path: Path) -> tuple[Cifar10, list[Example]]:
    config = Cifar10(kind="cifar10", files=(LocalFiles(path=path),), size=32)
    return config, [one for split in ("train", "heldout") for one in open_dataset(config).examples(split, 0, 0.5)]


def classes(path: Path, **settings: Any) -> list[str]:
    """Labels two tokens of each example; returns the class of each of `PIXELS`, found by its pixels."""
    config, examples = examples_of(path)
    tokens = pl.DataFrame({"example": np.repeat(np.arange(len(examples)), 2)})
    labels = label_images(ClassLabels(kind="classes", **settings), config, [e.group for e in examples], tokens, "vit")
    assert labels.token.tolist() == list(range(2 * len(examples)))
    assert labels.domain.tolist() == tokens["example"].to_list()
    named = [labels.concepts[number] for number in labels.concept]
    assert named[::2] == named[1::2]
    of_pixels = {np.asarray(one.content).tobytes(): name for one, name in zip(examples, named[::2], strict=True)}
    return [of_pixels[image.tobytes()] for image in PIXELS if image.tobytes() in of_pixels]


def fails(path: Path, match: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=match):
        classes(path, **settings)


def test_cifar_10s_label_bytes_are_classes(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(binary(NUMBERS[:2], pixels=PIXELS[:2]))
    (tmp_path / "test_batch.bin").write_bytes(binary(NUMBERS[2:], pixels=PIXELS[2:]))
    assert classes(tmp_path) == [f"class {number}" for number in NUMBERS]
    assert classes(tmp_path, names=NAMES) == ["cat", "airplane", "truck", "cat", "automobile", "airplane"]
    fails(tmp_path, "data_batch_1.bin: has 10 classes of level fine, but .* name 3", names=("a", "b", "c"))
    fails(tmp_path, "has one label for each image, .* leave out `level: coarse`", level="coarse")


def test_cifar_100_has_a_coarse_and_a_fine_label(tmp_path: Path) -> None:
    coarse, fine = [0, 19, 1, 0, 19, 1], [99, 5, 7, 98, 5, 6]
    (tmp_path / "train.bin").write_bytes(binary(coarse, fine))
    assert classes(tmp_path) == [f"class {number}" for number in fine]
    assert classes(tmp_path, level="coarse") == [f"class {number}" for number in coarse]
    names = tuple(f"kind {number}" for number in range(20))
    assert classes(tmp_path, level="coarse", names=names) == [f"kind {number}" for number in coarse]
    fails(tmp_path, "has 100 classes of level fine, but .* name 20", names=names)


def test_columns_of_the_hubs_tables_are_classes(tmp_path: Path) -> None:
    parquet(tmp_path / "cifar10.parquet", label=NUMBERS)
    parquet(tmp_path / "cifar100.parquet", fine_label=NUMBERS, coarse_label=[1, 0, 0, 1, 1, 1])
    for name in ("cifar10", "cifar100"):
        assert classes(tmp_path / f"{name}.parquet", names=NAMES)[:3] == ["cat", "airplane", "truck"]
    coarse = classes(tmp_path / "cifar100.parquet", level="coarse", names=("animal", "vehicle"))
    assert coarse == ["vehicle", "animal", "animal", "vehicle", "vehicle", "vehicle"]
    fails(tmp_path / "cifar10.parquet", "has class 9, but .* name 2 classes; should name all from 0 to 9", names=NAMES[:2])  # fmt: skip  # noqa: E501


def test_tables_without_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet(path, caption=list("abcdef"))
    fails(path, r"x.parquet: should have a column fine_label or label of whole numbers .* caption \(string\)")
    parquet(path)
    fails(path, "besides images, none")
    parquet(path, label=list("abcdef"))
    fails(path, r"of whole numbers .* label \(string\)")
    parquet(path, label=NUMBERS)
    fails(path, "should have a column coarse_label of whole numbers", level="coarse")
    for wrong in (None, -1):
        parquet(path, label=[*NUMBERS[:5], wrong])
        fails(path, "column 'label' has empty or negative cells")


def test_the_folder_of_an_image_is_its_class(tmp_path: Path) -> None:
    for number, image in enumerate(PIXELS):
        folder = tmp_path / "train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(image))
    assert classes(tmp_path) == ["cat", "dog"] * 3
    fails(tmp_path, "has the name of its folder as its class; leave out names", names=NAMES)
    fails(tmp_path / "train" / "cat", r"vit: its 3 held-out images are all of one class \(cat\)")


def test_an_image_with_two_classes_has_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.bin").write_bytes(binary(NUMBERS))
    (tmp_path / "b.bin").write_bytes(binary([3, 7], pixels=PIXELS[:2]))
    with caplog.at_level(logging.WARNING):
        assert classes(tmp_path)[:2] == ["class 3", "class 0"]
    assert "images stored more than once, with different classes (the first counts): 1" in caplog.text


def test_files_that_changed_during_the_pass_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(binary(NUMBERS))
    config, examples = examples_of(tmp_path)
    (tmp_path / "a.bin").write_bytes(binary(NUMBERS, pixels=255 - PIXELS))
    tokens = pl.DataFrame({"example": range(6)})
    with pytest.raises(UserError, match="vit: some of its images are no longer in the files"):
        label_images(ClassLabels(kind="classes"), config, [one.group for one in examples], tokens, "vit")


def test_the_stage_reads_classes_of_tokens_without_places(tmp_path: Path) -> None:
    """A family that cannot tell where its tokens are in the picture has classes all the same."""
    (tmp_path / "a.bin").write_bytes(binary([0, 0, 0, 1, 1, 1]))
    config, examples = examples_of(tmp_path)
    tables = SeenTables("image")
    tables.add(HeldOutBatch({}, examples, [3] * 6, None))
    given: Any = {"small": ClassLabels(kind="classes", names=NAMES)}
    evaluation = EvaluationConfig(labels=given, min_domains=1)
    settings: Any = SimpleNamespace(evaluation=evaluation, datasets={"small": config}, seed=0)
    held_out: Any = SimpleNamespace(name="vit", kind="image", model=SimpleNamespace(dataset="small"))
    labeled = open_context(settings, held_out, tables).labeled
    assert labeled is not None
    assert set(labeled.test.concepts) == {"airplane", "automobile"}


def test_classes_are_for_cifar10_alone() -> None:
    source = {"family": "transformers", "weights": {"path": "weights"}}
    suite: dict[str, Any] = {
        "datasets": {"small": {"kind": "cifar10", "files": [{"path": "x"}]}},
        "models": {"vit": {"domain": "vision", "source": source, "dataset": "small", "layers": [1]}},
        "evaluation": {"labels": {"small": {"kind": "classes", "level": "coarse"}}},
    }
    assert check_config(suite, "test").evaluation is not None
    suite["datasets"]["small"]["kind"] = "images"
    with pytest.raises(UserError, match="labels of kind classes are for cifar10, and small is images"):
        check_config(suite, "test")
