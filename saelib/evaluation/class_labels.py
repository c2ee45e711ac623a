"""Labels of whole images: their classes in the files of CIFAR-10, CIFAR-100 and similar data sets."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.config.datasets import Cifar10, DatasetConfig
from saelib.config.evaluation import ClassLabels
from saelib.datasets.cifar10 import LABELS, list_images, listing
from saelib.errors import UserError
from saelib.evaluation.example_labels import label_examples
from saelib.evaluation.labels import Labels

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)


def label_images(
    labels: ClassLabels, dataset: DatasetConfig, groups: Sequence[str], tokens: "pl.DataFrame", name: str
) -> Labels:
    """Labels each token by the class of its image, which is one domain.

    An image that is stored twice with different classes gets the first one, as the data set keeps its first copy.

    Args:
        labels: The level of the classes, and their names.
        dataset: The data set of kind cifar10 that the images are from.
        groups: The group of each example, which is the digest of the stored image.
        tokens: The table of tokens.
        name: The name of the model in messages.

    Raises:
        UserError: If a file has no such classes, if a class has no name, or if all images are of one class.
    """
    assert isinstance(dataset, Cifar10)  # as the config checks
    classes = _classes_of(set(groups), listing(dataset).files, labels)
    if len(classes) < len(set(groups)):
        raise UserError(f"{name}: some of its images are no longer in the files of its data set; run it again")
    if len(different := set(classes.values())) < 2:
        raise UserError(
            f"{name}: its {len(groups)} held-out images are all of one class ({', '.join(different)}); labels of kind "
            "classes need two or more"
        )
    return label_examples([classes[group] for group in groups], tokens)


def _classes_of(wanted: set[str], files: Sequence[Path], labels: ClassLabels) -> dict[str, str]:
    """Reads the classes of the wanted images: digest -> name of the class."""
    found: dict[str, str] = {}
    conflicting: set[str] = set()
    for file in files:
        digests = [image.digest() for image in list_images(file)]
        for digest, name in zip(digests, _names(file, labels), strict=True):
            if digest in wanted and found.setdefault(digest, name) != name:
                conflicting.add(digest)
    if conflicting:
        log.warning("images stored more than once, with different classes (the first counts): %d", len(conflicting))
    return found


def _names(file: Path, labels: ClassLabels) -> list[str]:
    """Reads the name of the class of each image of a file, in order."""
    suffix = file.suffix.lower()
    if suffix not in (".bin", ".parquet"):
        if labels.names or labels.level == "coarse":
            raise UserError(
                f"labels of kind classes: {file} has the name of its folder as its class; leave out names and level"
            )
        return [file.parent.name]
    numbers = _of_binary(file, labels) if suffix == ".bin" else _of_parquet(file, labels.level)
    if not labels.names:
        return [f"class {number}" for number in numbers]
    if (highest := numbers.max(initial=0)) >= len(labels.names):
        raise UserError(
            f"{file}: has class {highest}, but labels of kind classes name {len(labels.names)} classes; should name "
            f"all from 0 to {highest} or more"
        )
    return [labels.names[number] for number in numbers]


def _of_binary(file: Path, labels: ClassLabels) -> NDArray[np.integer]:
    """Reads the class of each image from the start of its record: [images]."""
    data = np.memmap(file, dtype=np.uint8, mode="r")
    length = next(length for length in LABELS if len(data) % length == 0)
    classes = LABELS[length]
    if labels.level == "coarse" and len(classes) == 1:
        raise UserError(f"{file}: has one label for each image, as CIFAR-10 does; leave out `level: coarse`")
    place = 0 if labels.level == "coarse" else len(classes) - 1
    if labels.names and len(labels.names) != classes[place]:
        raise UserError(
            f"{file}: has {classes[place]} classes of level {labels.level}, but labels of kind classes name "
            f"{len(labels.names)}; should name all, or none"
        )
    return np.array(data.reshape(-1, length)[:, place])


def _of_parquet(file: Path, level: str) -> NDArray[np.integer]:
    """Reads the class of each image from its column: [images]."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    allowed = ("coarse_label",) if level == "coarse" else ("fine_label", "label")
    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        name = next((name for name in allowed if name in schema.names), None)
        if name is None or not pa.types.is_integer(schema.field(name).type):
            columns = ", ".join(
                f"{field.name} ({field.type})" for field in schema if not pa.types.is_struct(field.type)
            )
            raise UserError(
                f"{file}: should have a column {' or '.join(allowed)} of whole numbers for classes of level {level}, "
                f"but has, besides images, {columns or 'none'}"
            )
        column = table.read(columns=[name]).column(0)
    if column.null_count or (column.to_numpy() < 0).any():
        raise UserError(f"{file}: column '{name}' has empty or negative cells; should be a class from 0 for each image")
    return column.to_numpy()
