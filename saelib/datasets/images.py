"""Square crops from image files, decoded with Pillow (which comes with matplotlib)."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saelib.config.datasets import Images
from saelib.datasets.base import Example, Split, split_by_group
from saelib.errors import UserError
from saelib.fetch import describe, fetch_files

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "TIFF", "GIF")
"""Pillow's decoders for these suffixes; it has dozens more, for formats that nobody keeps photographs in."""


def open_dataset(config: Images) -> "ImageCrops":
    """Fetch the image files. Raises `UserError` where there are none."""
    found = [file for files in config.files for file in fetch_files(files) if file.suffix.lower() in SUFFIXES]
    if not found:
        places = "; ".join(describe(files) for files in config.files)
        raise UserError(f"images: no {', '.join(SUFFIXES)} files in {places or 'an empty list of files'}")
    return ImageCrops(found, config.size, config.crops)


class ImageCrops:
    """Random crops of images. An example's group is its image, called by folder and file: `data/coffee.png`."""

    def __init__(self, files: list[Path], size: int = 224, crops: int = 16) -> None:
        """Take `crops` squares of `size` x `size` pixels from each file; nothing is read yet.

        Raises:
            UserError: where two files would have the same name.
        """
        self.size, self.crops = size, crops
        self.files: dict[str, Path] = {}
        for file in files:
            # Not the whole path: the same images make the same examples wherever they lie.
            other = self.files.setdefault(f"{file.parent.name}/{file.name}", file)
            if other != file:
                raise UserError(f"images: {other} and {file} have the same folder and file name; rename one")

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """See `saelib.datasets.Dataset`. A crop depends on the seed, its image and its number, not on other images.

        An image is decoded anew for each crop, so that memory does not grow with the number of images.
        """
        crops = [(group, number) for group in sorted(self.files) for number in range(self.crops)]
        groups = [group for group, _ in crops]
        for group, number in split_by_group(crops, groups, split, seed, heldout_fraction, "images"):
            rng = np.random.default_rng([seed, zlib.crc32(group.encode()), number])
            yield Example(f"{group}#{number}", group, random_crop(self.files[group], self.size, rng))


def random_crop(file: Path, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square of an image, RGB [size, size, 3].

    Grey is repeated in the three channels, transparency dropped, and of several frames or pages the first is taken.
    From an image with a side shorter than `size`, the square is as large as that side and scaled up (bicubic).

    Raises:
        UserError: see `opened_image`.
    """
    with opened_image(file, str(file)) as image:
        side = min(size, *image.size)
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        square = image.crop((left, top, left + side, top + side)).convert("RGB")
    return scaled_up(square, size)


@contextmanager
def opened_image(source: Path | BinaryIO, name: str) -> Iterator["Image.Image"]:
    """Open an image, which messages call `name`; the first of several frames or pages.

    Raises:
        UserError: where it is corrupt, has more than 8 bits a channel, or is so large when unpacked that Pillow takes
            it for an attack (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    from PIL import Image

    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{name}: its values have more than 8 bits (Pillow mode '{image.mode}'); convert it")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: not a readable image ({error})") from None


def scaled_up(square: "Image.Image", size: int) -> NDArray[np.uint8]:
    """A square RGB image as [size, size, 3]; where it is smaller, scaled up (bicubic)."""
    from PIL import Image

    if square.width < size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square)
