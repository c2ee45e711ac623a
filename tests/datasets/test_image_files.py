"""An image file is seen as a viewer shows it: upright, in its colors, whatever its format."""

import warnings

import numpy as np
import pytest
from PIL import Image

from saelib.config.datasets import Cifar10, Images
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.images import random_crop
from saelib.errors import UserError

T = Image.Transpose
STORED = {
    1: None,
    2: T.FLIP_LEFT_RIGHT,
    3: T.ROTATE_180,
    4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE,
    6: T.ROTATE_90,
    7: T.TRANSVERSE,
    8: T.ROTATE_270,
}
"""EXIF orientation -> how an upright picture lies in its file."""
SIDE = 32
UPRIGHT = np.zeros((SIDE, SIDE, 3), np.uint8)
UPRIGHT[:16, :16] = 255  # one corner white, the one beside it red: no turn or mirroring leaves that
UPRIGHT[:16, 16:] = (255, 0, 0)


def save(path, orientation, **options):
    picture = Image.fromarray(UPRIGHT)
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (picture if turn is None else picture.transpose(turn)).save(path, exif=exif, **options)


def whole(path):
    return random_crop(path, SIDE, np.random.default_rng(0)).astype(int)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    save(tmp_path / f"a.{suffix}", orientation, quality=95)
    np.testing.assert_allclose(whole(tmp_path / f"a.{suffix}")[4:12, 4:12], 255, atol=12)
    np.testing.assert_allclose(whole(tmp_path / f"a.{suffix}"), UPRIGHT, atol=90)  # JPEG blurs the edges


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_is_applied_in_every_kind_of_data_set(tmp_path, orientation):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, orientation)
    again = Image.open(tmp_path / "b.png")
    again.putpixel((0, 0), (9, 9, 9))
    again.save(tmp_path / "b.png", exif=again.getexif())
    for config in (Cifar10(kind="cifar10", files=(LocalFiles(path=tmp_path),), size=SIDE),
                   Images(kind="images", files=(LocalFiles(path=tmp_path),), size=SIDE, crops=1)):  # fmt: skip
        for split in ("train", "heldout"):
            (example,) = open_dataset(config).examples(split, 0, 0.5)
            assert (example.content != UPRIGHT).any(axis=2).sum() <= 1


def test_a_crop_of_a_photograph_on_its_side_is_of_the_upright_one(tmp_path):
    tall = np.zeros((60, 20, 3), np.uint8)
    tall[..., 0] = np.arange(60)[:, None]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tall).transpose(T.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    crop = random_crop(tmp_path / "a.png", 20, np.random.default_rng(0))
    assert (np.diff(crop[:, 0, 0].astype(int)) == 1).all()
    assert (crop == crop[:, :1]).all()


def test_damaged_exif_is_passed_over_without_a_warning(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a title"
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            raw = bytearray(exif.tobytes())
            raw[6 + rng.integers(len(raw) - 6, size=4)[0]] = int(rng.integers(256))
            Image.fromarray(UPRIGHT).save(tmp_path / "a.jpg", exif=bytes(raw[: int(rng.integers(8, len(raw) + 1))]))
            assert whole(tmp_path / "a.jpg").shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "ppm", "jfif", "jp2"])
def test_other_formats_are_read(tmp_path, suffix):
    for number in range(3):
        picture = Image.fromarray(np.roll(UPRIGHT, 8 * number, axis=0))
        picture.save(tmp_path / f"{number}.{suffix.upper()}", **({"lossless": True} if suffix == "webp" else {}))
    data = open_dataset(Images(kind="images", files=(LocalFiles(path=tmp_path),), size=SIDE, crops=1))
    found = [one for split in ("train", "heldout") for one in data.examples(split, 0, 0.4)]
    assert len(found) == 3
    for one in found:
        shift = 8 * int(one.id.split("/")[1][0])
        np.testing.assert_allclose(one.content.astype(int), np.roll(UPRIGHT, shift, axis=0), atol=90)


def test_animated_images_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(whole(tmp_path / f"a.{suffix}"), np.full((SIDE, SIDE, 3), (255, 0, 0)), atol=3)


def test_cmyk_palettes_with_transparency_and_16_bits_of_color(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Image.fromarray(UPRIGHT).convert("CMYK").save(tmp_path / "a.tif")
        np.testing.assert_allclose(whole(tmp_path / "a.tif"), UPRIGHT, atol=2)
        # The color that lies under transparency shows.
        Image.fromarray(UPRIGHT).convert("P", palette=Image.Palette.ADAPTIVE).save(
            tmp_path / "a.png", transparency=bytes([0, 128, 255])
        )
        np.testing.assert_allclose(whole(tmp_path / "a.png"), UPRIGHT, atol=8)
    # Of 16 bits the upper 8; Pillow writes no such file, so it is written by hand.
    (tmp_path / "a.ppm").write_bytes(b"P6 32 32 65535\n" + (UPRIGHT.astype(">u2") * 257).tobytes())
    np.testing.assert_allclose(whole(tmp_path / "a.ppm"), UPRIGHT, atol=1)
    (tmp_path / "a.pgm").write_bytes(b"P5 32 32 65535\n" + (UPRIGHT[..., 0].astype(">u2") * 257).tobytes())
    with pytest.raises(UserError, match="more than 8 bits"):
        whole(tmp_path / "a.pgm")
