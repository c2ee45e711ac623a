"""Labels of image patches: the class that covers most of a patch in the picture's segmentation mask."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.config.evaluation import MaskLabels
from saelib.datasets.base import Dataset
from saelib.datasets.images import ImageCrops, opened_image, random_crop
from saelib.datasets.listing import list_files
from saelib.errors import UserError
from saelib.evaluation.labels import Labels

if TYPE_CHECKING:
    import polars as pl


def label_patches(
    labels: MaskLabels, images: Dataset, seed: int, examples: "pl.DataFrame", tokens: "pl.DataFrame"
) -> Labels:
    """Labels each patch by the class that covers most of it. A class in one example is one domain.

    Tokens of the whole picture have no label.

    Args:
        labels: The masks, and names of their classes.
        images: The data set of kind images that the examples are crops of.
        seed: The seed of the config, which decided the crops.
        examples: The table of examples (`saelib.evaluation.seen`).
        tokens: The table of tokens, with their boxes.

    Raises:
        UserError: If an image has no mask, or one of another size, or if no patch has a class.
    """
    assert isinstance(images, ImageCrops)  # as the config checks
    files = list_files("labels", labels.files, lambda file: file.suffix.lower() == ".png", ".png").files
    masks = {name: file for file in files for name in (file.stem, f"{file.parent.name}/{file.stem}")}
    boxes = tokens.select("x0", "y0", "x1", "y1").to_numpy()
    found: list[tuple[int, int, int]] = []  # token, class, example
    for example, name, first, count in examples.select("example", "id", "first_token", "tokens").iter_rows():
        group, _, number = name.rpartition("#")
        mask = _mask_of(images.files[group], masks, images.size)
        rng = np.random.default_rng([seed, zlib.crc32(group.encode()), int(number)])  # that of the image's crop
        classes = _classes(random_crop(mask, images.size, rng))
        for token in range(first, first + count):
            if (covered := _most_of(classes, boxes[token])) is not None:
                found.append((token, covered, example))
    return _labels(found, labels.classes, tokens.height)


def _mask_of(image: Path, masks: Mapping[str, Path], side: int) -> Path:
    """Finds the mask of an image, and checks that it covers the same pixels."""
    mask = masks.get(f"{image.parent.name}/{image.stem}", masks.get(image.stem))
    if mask is None:
        raise UserError(f"labels of kind masks: {image} has no mask; should be a file {image.stem}.png")
    with opened_image(image, str(image)) as picture, opened_image(mask, str(mask)) as opened:
        sizes = picture.size, opened.size
    if sizes[0] != sizes[1]:
        raise UserError(f"{mask}: has {_size(sizes[1])} pixels, and {image} has {_size(sizes[0])}; should be the same")
    if min(sizes[1]) < side:
        raise UserError(f"{mask}: has {_size(sizes[1])} pixels; should have as many as a crop ({side}) on each side")
    return mask


def _size(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"


def _classes(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Turns colors [y, x, 3] into one number each, 0xRRGGBB."""
    return mask.astype(np.int64) @ np.array([2**16, 2**8, 1])


def _most_of(classes: NDArray[np.int64], box: NDArray[np.integer]) -> int | None:
    """Finds the class of most pixels of a box, the first of equal ones; None if the box is the whole picture."""
    x0, y0, x1, y1 = box
    inside = classes[y0:y1, x0:x1]
    if not inside.size or inside.shape == classes.shape:
        return None
    values, counts = np.unique(inside, return_counts=True)
    return int(values[np.argmax(counts)])


def _name(color: int) -> str:
    """Names a class by its number if it is gray, and by its color otherwise: '7', '#800000'."""
    red, green, blue = color >> 16, color >> 8 & 255, color & 255
    return str(red) if red == green == blue else f"#{color:06x}"


def _labels(found: Sequence[tuple[int, int, int]], names: Mapping[str, str], tokens: int) -> Labels:
    """Makes labels of (token, class, example). With names, classes without one are left out."""
    named = {color: names.get(_name(color)) if names else f"mask {_name(color)}" for _, color, _ in found}
    concepts = sorted({name for name in named.values() if name})
    number = {name: index for index, name in enumerate(concepts)}
    kept = [(token, number[name], example) for token, color, example in found if (name := named[color])]
    if not kept:
        there = ", ".join(sorted(map(_name, named))[:10]) or "none"
        raise UserError(f"labels of kind masks: no patch has a class; those of the masks are {there}")
    token, concept, example = np.array(kept, np.int64).T
    return Labels(tokens, tuple(concepts), token, concept, example * len(concepts) + concept)
