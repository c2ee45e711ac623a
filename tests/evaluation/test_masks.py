"""Patches get the class of the mask at their place, in exactly the crop that the model saw."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from saelib import UserError
from saelib.config.evaluation import EvaluationConfig, MaskLabels
from saelib.config.files import LocalFiles
from saelib.datasets.base import Example
from saelib.datasets.images import ImageCrops
from saelib.evaluation.held_out import HeldOutBatch, SeenTables
from saelib.evaluation.layer_report import open_context
from saelib.evaluation.masks import label_patches

SIZE, PATCH, SEED = 32, 8, 3


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def seen(images: ImageCrops) -> tuple[pl.DataFrame, pl.DataFrame, list[np.ndarray]]:
    """Tables of all examples, whose tokens are the whole picture and its patches, and their pixels."""
    boxes = [(0, 0, SIZE, SIZE)]
    boxes += [(x, y, x + PATCH, y + PATCH) for y in range(0, SIZE, PATCH) for x in range(0, SIZE, PATCH)]
    examples = [one for split in ("train", "heldout") for one in images.examples(split, SEED, 0.5)]
    first = [number * len(boxes) for number in range(len(examples))]
    columns = {"example": range(len(examples)), "id": [one.id for one in examples], "first_token": first}
    tokens = pl.DataFrame(boxes * len(examples), ["x0", "y0", "x1", "y1"], orient="row")
    return (
        pl.DataFrame(columns | {"tokens": [len(boxes)] * len(examples)}),
        tokens,
        [np.asarray(one.content) for one in examples],
    )


def labels(folder: Path, **classes: str) -> MaskLabels:
    return MaskLabels(kind="masks", files=(LocalFiles(path=folder),), classes=classes)


@pytest.fixture
def images(tmp_path: Path) -> ImageCrops:
    """Two images that are their own masks: each pixel has one of four colors."""
    rng = np.random.default_rng(0)
    colors = np.array([[0, 0, 0], [7, 7, 7], [128, 0, 0], [0, 0, 200]], np.uint8)
    for name in "ab":
        pixels = colors[rng.integers(0, 4, (12, 15))].repeat(5, 0).repeat(5, 1)
        save(tmp_path / "photos" / f"{name}.png", pixels)
        save(tmp_path / "masks" / f"{name}.png", pixels)
    return ImageCrops(sorted((tmp_path / "photos").iterdir()), SIZE, crops=6)


def test_labels_are_the_pixels_that_the_model_saw(images: ImageCrops, tmp_path: Path) -> None:
    """The most frequent color of each patch, counted in the crop itself, is the class; whole pictures have none."""
    examples, tokens, crops = seen(images)
    found = label_patches(labels(tmp_path / "masks"), images, SEED, examples, tokens)
    assert found.concepts == ("mask #0000c8", "mask #800000", "mask 0", "mask 7")
    names = {(0, 0, 200): "mask #0000c8", (128, 0, 0): "mask #800000", (0, 0, 0): "mask 0", (7, 7, 7): "mask 7"}
    of_token = {int(token): found.concepts[concept] for token, concept in zip(found.token, found.concept, strict=True)}
    per_example = tokens.height // len(crops)
    assert {token % per_example for token in of_token} == set(range(1, per_example))
    for token, concept in of_token.items():
        x0, y0, x1, y1 = tokens.row(token)
        patch = crops[token // per_example][y0:y1, x0:x1].reshape(-1, 3).tolist()
        counts = {name: patch.count(list(color)) for color, name in names.items()}
        assert counts[concept] == max(counts.values())
    domains = {(int(t) // per_example, int(c)) for t, c in zip(found.token, found.concept, strict=True)}
    assert len(set(found.domain.tolist())) == len(domains)


def test_the_stage_reads_masks(images: ImageCrops, tmp_path: Path) -> None:
    examples, tokens, crops = seen(images)
    tables = SeenTables("image")
    spans, counts = tokens.to_numpy().astype(np.int32), examples["tokens"].to_list()
    shown = [Example(name, name.partition("#")[0], crop) for name, crop in zip(examples["id"], crops, strict=True)]
    tables.add(HeldOutBatch({}, shown, counts, spans))
    given: Any = {"photos": labels(tmp_path / "masks", **{"7": "cat", "0": "sky"})}
    settings: Any = SimpleNamespace(evaluation=EvaluationConfig(labels=given, min_domains=1), seed=SEED)
    held_out: Any = SimpleNamespace(name="vit", kind="image", model=SimpleNamespace(dataset="photos"), dataset=images)
    labeled = open_context(settings, held_out, tables).labeled
    assert labeled is not None
    assert set(labeled.test.concepts) == {"cat", "sky"}


def test_only_named_classes_count(images: ImageCrops, tmp_path: Path) -> None:
    examples, tokens, _ = seen(images)
    everything = label_patches(labels(tmp_path / "masks"), images, SEED, examples, tokens)
    named = label_patches(labels(tmp_path / "masks", **{"7": "cat", "#800000": "road"}), images, SEED, examples, tokens)
    assert named.concepts == ("cat", "road")
    for ours, theirs in ((0, "mask 7"), (1, "mask #800000")):
        same = everything.token[everything.concept == everything.concepts.index(theirs)]
        assert named.token[named.concept == ours].tolist() == same.tolist()
    with pytest.raises(UserError, match="no patch has a class; those of the masks are #0000c8, #800000, 0, 7"):
        label_patches(labels(tmp_path / "masks", **{"9": "dog"}), images, SEED, examples, tokens)


def test_images_of_several_folders_have_masks_of_theirs(tmp_path: Path) -> None:
    for value, folder in enumerate(("cats", "dogs"), 1):
        save(tmp_path / folder / "1.png", np.random.default_rng(value).integers(0, 255, (40, 40, 3), np.uint8))
        save(tmp_path / "masks" / folder / "1.png", np.full((40, 40), value, np.uint8))
    images = ImageCrops([tmp_path / folder / "1.png" for folder in ("cats", "dogs")], SIZE, crops=2)
    examples, tokens, _ = seen(images)
    files = tuple(LocalFiles(path=tmp_path / "masks" / folder) for folder in ("cats", "dogs"))
    found = label_patches(MaskLabels(kind="masks", files=files), images, SEED, examples, tokens)
    value = {"cats/1.png#": "mask 1", "dogs/1.png#": "mask 2"}
    assert found.concepts == tuple(sorted({value[name[:-1]] for name in examples["id"]}))


def test_masks_that_do_not_fit_get_one_sentence(images: ImageCrops, tmp_path: Path) -> None:
    examples, tokens, _ = seen(images)

    def fails(match: str) -> None:
        with pytest.raises(UserError, match=match):
            label_patches(labels(tmp_path / "masks"), images, SEED, examples, tokens)

    for name in "ab":
        save(tmp_path / "masks" / f"{name}.png", np.zeros((60, 70), np.uint8))
    fails(r"\.png: has 70 x 60 pixels, and .*\.png has 75 x 60; should be the same")
    for name in "ab":
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"other_{name}.png")
    fails(r"has no mask; should be a file [ab]\.png")
    small = io.BytesIO()
    Image.new("RGB", (20, 40)).save(small, "png")
    for folder in ("photos", "masks"):
        for name in "ab":
            (tmp_path / folder / f"{name}.png").write_bytes(small.getvalue())
    fails(r"has 20 x 40 pixels; should have as many as a crop \(32\) on each side")
