"""Pictures as files, small enough that thousands of them fit into the budget of a page."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from saelib.errors import UserError

SIDES = (448, 336, 224, 160, 112, 80)
"""Longest sides to choose from, in pixels."""
BUDGET = 25e6
"""Bytes of all pictures of a page, roughly."""
BYTES_PER_PIXEL = 0.2
"""Rough size of a photograph as WebP at `QUALITY`."""
QUALITY = 60


def write_pictures(folder: Path, numbers: Sequence[int], image: Callable[[int], bytes]) -> dict[int, tuple[int, int]]:
    """Writes `NUMBER.webp` for each picture, and returns their sizes before they were made smaller: width, height.

    Args:
        folder: A new folder.
        numbers: Numbers of examples.
        image: Gives the picture of an example as PNG.

    Raises:
        UserError: If a picture cannot be read.
    """
    from PIL import Image

    folder.mkdir()
    fitting = [side for side in SIDES if len(numbers) * side**2 * BYTES_PER_PIXEL <= BUDGET]
    side = fitting[0] if fitting else SIDES[-1]
    sizes = {}
    for number in numbers:
        try:
            with Image.open(io.BytesIO(image(number)), formats=["PNG"]) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"example {number}: its picture cannot be read as PNG ({error})") from None
        sizes[number] = picture.size
        picture.thumbnail((side, side))
        picture.save(folder / f"{number}.webp", quality=QUALITY)
    return sizes
