"""CIFAR-10 and similar data: small whole images, scaled up, each one a group of its own."""

import hashlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saelib.config.datasets import Cifar10
from saelib.datasets.base import Example, Split, split_by_group
from saelib.datasets.images import SUFFIXES, opened_image, scaled_up
from saelib.datasets.listing import Listing, list_files
from saelib.errors import UserError

log = logging.getLogger(__name__)

SIDE = 32
PIXELS = 3 * SIDE * SIDE
LABELS = {PIXELS + 1: (10,), PIXELS + 2: (20, 100)}
"""Bytes of a record in a binary file -> number of classes for each of the labels that the record starts with.

The first entry is CIFAR-10, the second CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html)."""


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """An image as it is stored in its file."""

    name: str
    """The name that messages use: folder, file and place in the file."""
    content: NDArray[np.uint8] | bytes | Path
    """Planes of red, green and blue [3 * 32 * 32], an encoded image, or the path of one."""

    def digest(self) -> str:
        """Returns a hash of the stored bytes."""
        content = self.content
        if isinstance(content, Path):
            content = content.read_bytes()
        return hashlib.blake2b(bytes(content), digest_size=16).hexdigest()


def listing(config: Cifar10) -> Listing:
    """Lists the image files, including those in subfolders.

    Raises:
        UserError: if there are none, or one holds pickled Python objects.
    """
    allowed = (".bin", ".parquet", *SUFFIXES)
    return list_files("cifar10", config.files, _is_read, ", ".join(allowed), deep=True)


def open_dataset(config: Cifar10) -> "SmallImages":
    """Fetches and lists the images. Raises `UserError` if there are none or a file is damaged."""
    return SmallImages([image for file in listing(config).files for image in list_images(file)], config.size)


class SmallImages:
    """Whole images, scaled up. Identical images count as one example."""

    def __init__(self, images: list[Stored], size: int) -> None:
        """Takes the stored images; `size` is the number of pixels along each side after scaling."""
        self.size = size
        # Images are sorted by content, so the same images make the same examples whatever their files are called.
        self._images = dict(sorted({image.digest(): image for image in reversed(images)}.items()))
        log.info("cifar10: %d images, %d of them repeats, left out", len(images), len(images) - len(self._images))

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields the examples of a split (see `Dataset.examples`), decoding one image at a time."""
        for group in self.places(split, seed, heldout_fraction):
            image = self._images[group]
            yield Example(image.name, group, whole_image(image, self.size))

    def places(self, split: Split, seed: int, heldout_fraction: float) -> list[str]:
        """Returns the group of each image of a split, in order, without decoding any."""
        groups = list(self._images)
        return split_by_group(groups, groups, split, seed, heldout_fraction, "cifar10")


def whole_image(image: Stored, size: int) -> NDArray[np.uint8]:
    """Decodes an image and scales it up (bicubic): RGB [size, size, 3].

    Raises:
        UserError: if it cannot be read, is not square, or is larger than `size`.
    """
    from PIL import Image

    if isinstance(image.content, np.ndarray):
        planes = image.content.reshape(3, SIDE, SIDE)
        square = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    else:
        source = io.BytesIO(image.content) if isinstance(image.content, bytes) else image.content
        with opened_image(source, image.name) as opened:
            square = opened.convert("RGB")
    if square.width != square.height or square.width > size:
        raise UserError(
            f"{image.name}: has {square.width} x {square.height} pixels; should be a square of at most {size} "
            "(`kind: images` takes crops of images of any size)"
        )
    return scaled_up(square, size)


def list_images(file: Path) -> Iterator[Stored]:
    """Yields the images of one file, whose suffix says what it holds. Raises `UserError` for a damaged file."""
    name, suffix = f"{file.parent.name}/{file.name}", file.suffix.lower()
    if suffix == ".bin":
        for row, pixels in enumerate(_binary(file)):
            yield Stored(f"{name}#{row}", pixels)
    elif suffix == ".parquet":
        for row, encoded in enumerate(_parquet(file)):
            yield Stored(f"{name}#{row}", encoded)
    else:
        yield Stored(name, file)


def _is_read(file: Path) -> bool:
    """Tells by its name whether a file holds images. Raises `UserError` for pickled Python objects."""
    suffix = file.suffix.lower()
    if suffix in (".pkl", ".pickle") or (not suffix and _is_pickle(file)):
        raise UserError(
            f"{file}: holds pickled Python objects, which may run code when they are read; "
            "use CIFAR's binary version (cifar-10-binary.tar.gz)"
        )
    return suffix in (".bin", ".parquet", *SUFFIXES)


def _binary(file: Path) -> NDArray[np.uint8]:
    """Maps the images of a binary file, without reading them: [images, 3 * 32 * 32]."""
    size = file.stat().st_size
    length = next((length for length in LABELS if size and size % length == 0), None)
    if length is None:
        raise UserError(
            f"{file}: has {size} bytes, not a multiple of {' or '.join(map(str, LABELS))} (label and 32 x 32 pixels)"
        )
    records = np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, length)
    labels = records[:, : len(LABELS[length])]
    if (labels >= LABELS[length]).any():
        raise UserError(f"{file}: has label {labels.max()}; it is not a file of CIFAR-10 or -100, or it is damaged")
    return records[:, len(LABELS[length]) :]


def _parquet(file: Path) -> Iterator[bytes]:
    """Yields the encoded images of a Parquet file, from its column of structures with `bytes`.

    Data sets of the Hugging Face hub store images in such a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            columns = [
                field.name
                for field in table.schema_arrow
                if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
            ]
            if len(columns) != 1:
                names = ", ".join(table.schema_arrow.names)
                raise UserError(
                    f"{file}: should have one column of images (with 'bytes'), but has {columns} among: {names}"
                )
            for batch in table.iter_batches(columns=columns):
                for image in batch.column(0).to_pylist():
                    if not image or not image["bytes"]:
                        raise UserError(f"{file}: an image of column '{columns[0]}' is missing")
                    yield image["bytes"]
    except pa.ArrowException as error:
        raise UserError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def _is_pickle(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(2)
    return start[:1] == b"\x80" and start[1:] <= b"\x05"
