"""Square crops from image files, decoded with Pillow (which comes with matplotlib)."""

import hashlib
import logging
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saelib.config.datasets import Images
from saelib.datasets.base import Example, Split, split_by_group
from saelib.datasets.listing import Listing, list_files
from saelib.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
}
"""Pillow's decoder -> suffixes. Pillow has dozens more, for formats that are not used for photographs."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def listing(config: Images) -> Listing:
    """Lists the image files. Raises `UserError` if there are none."""
    return list_files("images", config.files, lambda file: file.suffix.lower() in SUFFIXES, ", ".join(SUFFIXES))


def open_dataset(config: Images) -> "ImageCrops":
    """Fetches and lists the image files. Raises `UserError` if there are none."""
    files = listing(config).files
    kept = without_copies(files)
    log.info("images: %d files, %d of them copies of others, left out", len(files), len(files) - len(kept))
    return ImageCrops(kept, config.size, config.crops)


def without_copies(files: list[Path]) -> list[Path]:
    """Leaves out copies of earlier files, so that no photograph is in both splits.

    Only files that have the same size as another file are read.
    """
    sizes = Counter(file.stat().st_size for file in files)
    seen: set[bytes] = set()
    kept: list[Path] = []
    for file in files:
        if sizes[file.stat().st_size] > 1:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "blake2b").digest()
            if digest in seen:
                continue
            seen.add(digest)
        kept.append(file)
    return kept


class ImageCrops:
    """Random crops of images. The group of an example is its image, named by folder and file: `data/coffee.png`."""

    def __init__(self, files: list[Path], size: int = 224, crops: int = 16) -> None:
        """Prepares `crops` squares of `size` x `size` pixels from each file, without reading any yet.

        Raises:
            UserError: if two files would have the same name.
        """
        self.size, self.crops = size, crops
        self.files: dict[str, Path] = {}
        for file in files:
            # The name is not the whole path, so the same images make the same examples wherever they are stored.
            other = self.files.setdefault(f"{file.parent.name}/{file.name}", file)
            if other != file:
                raise UserError(f"images: {other} and {file} have the same folder and file name; rename one")

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields the examples of a split (see `Dataset.examples`).

        A crop depends on the seed, its image and its number, but not on other images. Each crop decodes its image
        again, so that memory does not grow with the number of images.
        """
        for group, number in self.places(split, seed, heldout_fraction):
            rng = np.random.default_rng([seed, zlib.crc32(group.encode()), number])
            yield Example(f"{group}#{number}", group, random_crop(self.files[group], self.size, rng))

    def places(self, split: Split, seed: int, heldout_fraction: float) -> list[tuple[str, int]]:
        """Returns the image and the number of each crop of a split, in order, without decoding any."""
        crops = [(group, number) for group in sorted(self.files) for number in range(self.crops)]
        return split_by_group(crops, [group for group, _ in crops], split, seed, heldout_fraction, "images")


def random_crop(file: Path, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cuts a random square out of an image: RGB [size, size, 3].

    Gray is repeated in the three channels, and CMYK and palettes become RGB. Transparency is dropped, which shows the
    colors that the file stores under it. If there are several frames or pages, the first is used. If a side of the
    image is shorter than `size`, the square has the length of that side and is scaled up (bicubic).

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
    """Opens an image, turned upright as EXIF says; if it has several frames or pages, the first. Messages say `name`.

    Raises:
        UserError: if it is corrupt, if it is gray with more than 8 bits (whose range is unknown; of 16-bit colors,
            Pillow takes the upper 8 bits), or if it is so large when unpacked that Pillow suspects an attack
            (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    from PIL import Image, ImageOps

    Image.init()
    known = [form for form in FORMATS if form in Image.OPEN]
    try:
        # Pillow's warnings, of a damaged EXIF entry for example, do not concern the pixels.
        with warnings.catch_warnings(action="ignore"), Image.open(source, formats=known) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{name}: its values have more than 8 bits (Pillow mode '{image.mode}'); convert it")
            ImageOps.exif_transpose(image, in_place=True)
            yield image
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: not a readable image ({error})") from None


def scaled_up(square: "Image.Image", size: int) -> NDArray[np.uint8]:
    """Returns a square RGB image as [size, size, 3], scaled up (bicubic) if it is smaller."""
    from PIL import Image

    if square.width < size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square)
