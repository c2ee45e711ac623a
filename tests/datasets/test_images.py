import numpy as np
import pytest
from PIL import Image

from saelib.config.datasets import Images
from saelib.config.files import LocalFiles
from saelib.datasets.images import ImageCrops, open_dataset, random_crop
from saelib.errors import UserError

FRACTION = 0.3


@pytest.fixture
def folder(tmp_path):
    """Ten images in which every pixel differs: red counts columns, green rows, blue images."""
    for number in range(10):
        Image.fromarray(coordinates(60, 90, number)).save(tmp_path / f"photo{number}.png")
    return tmp_path


def coordinates(height, width, number=0):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    pixels[..., 2] = number
    return pixels


def dataset(folder, **options):
    return open_dataset(Images(kind="images", files=(LocalFiles(path=folder),), **{"size": 32, "crops": 3, **options}))


def split(data, which, seed=0):
    return list(data.examples(which, seed, FRACTION))


def pixels(data, seed=0):
    """Example's id -> its crop, of both splits, in their order."""
    return {one.id: np.asarray(one.content) for which in ("train", "heldout") for one in split(data, which, seed)}


def test_every_crop_appears_once_and_no_image_in_both_splits(folder):
    train, heldout = (split(dataset(folder), which) for which in ("train", "heldout"))
    assert len({example.id for example in train + heldout}) == len(train + heldout) == 30
    assert len({example.group for example in heldout}) == 3
    assert not {example.group for example in train} & {example.group for example in heldout}


def test_crops_are_squares_of_their_own_image(folder):
    for name, crop in pixels(dataset(folder)).items():
        left, top, number = crop[0, 0].astype(int)
        assert crop.dtype == np.uint8
        assert name.startswith(f"{folder.name}/photo{number}.png#")
        np.testing.assert_array_equal(crop, coordinates(60, 90, number)[top : top + 32, left : left + 32])


def test_crops_reach_every_edge(folder):
    corners = np.array([crop[0, 0, :2] for crop in pixels(dataset(folder, crops=300)).values()])
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [90 - 32, 60 - 32]


def test_crops_differ_between_images_and_within_one(folder):
    corners = [tuple(crop[0, 0, :2]) for crop in pixels(dataset(folder)).values()]
    assert len(set(corners)) > 20


def test_the_seed_decides_and_other_images_do_not(folder):
    first, again, other_seed = (pixels(dataset(folder), seed) for seed in (0, 0, 1))
    assert list(first) == list(again)
    assert list(first) != list(other_seed)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other_seed[name]) for name in list(first)[:5])
    (folder / "photo5.png").unlink()
    fewer = pixels(dataset(folder))
    assert len(fewer) == 27
    assert all(np.array_equal(first[name], fewer[name]) for name in fewer)


def test_the_order_of_the_files_does_not_matter(folder):
    files = sorted(folder.glob("*.png"))
    forward, backward = (pixels(ImageCrops(order, size=32)) for order in (files, files[::-1]))
    assert list(forward) == list(backward)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("LA", "png"), ("RGBA", "png"), ("1", "tif"), ("L", "jpg"), ("P", "gif")]
)
def test_gray_palette_and_transparent_images_become_rgb(tmp_path, mode, suffix):
    shades = np.where(np.indices((40, 40)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    image = Image.fromarray(np.repeat(shades[..., None], 3, axis=2)).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.new("L", (40, 40), 0))
    image.save(tmp_path / f"a.{suffix}")
    crop = random_crop(tmp_path / f"a.{suffix}", 40, np.random.default_rng(0))
    assert crop.shape == (40, 40, 3)
    np.testing.assert_allclose(crop, np.repeat(shades[..., None], 3, axis=2), atol=8)


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    crop = random_crop(tmp_path / "a.tif", 32, np.random.default_rng(0))
    assert (crop == (255, 0, 0)).all()


@pytest.mark.parametrize(("height", "width"), [(10, 10), (10, 500), (40, 10)])
def test_small_images_are_scaled_up_from_a_square(tmp_path, height, width):
    Image.new("RGB", (width, height), (9, 8, 7)).save(tmp_path / "a.png")
    crop = random_crop(tmp_path / "a.png", 32, np.random.default_rng(0))
    assert crop.shape == (32, 32, 3)
    assert (crop == (9, 8, 7)).all()


def test_scaling_up_keeps_the_image_in_place(tmp_path):
    halves = np.zeros((8, 8, 3), dtype=np.uint8)
    halves[:, 4:] = 255
    Image.fromarray(halves).save(tmp_path / "a.png")
    crop = random_crop(tmp_path / "a.png", 32, np.random.default_rng(0))
    assert (crop[:, :12] < 30).all()
    assert (crop[:, 20:] > 225).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif"])
def test_a_truncated_image_is_named(folder, suffix):
    path = folder / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(256, size=(50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"broken\.{suffix}: not a readable image"):
        pixels(dataset(folder))


def test_text_and_huge_and_deep_images_are_refused(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png: not a readable image"):
        random_crop(tmp_path / "text.png", 8, rng)
    Image.fromarray(np.full((30, 30), 35_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png: its values have more than 8 bits"):
        random_crop(tmp_path / "deep.png", 8, rng)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(UserError, match=r"deep\.png: not a readable image .*decompression bomb"):
        random_crop(tmp_path / "deep.png", 8, rng)


def test_other_files_are_passed_over_and_none_at_all_is_an_error(folder):
    (folder / "README.txt").write_text("about")
    assert len(pixels(dataset(folder))) == 30
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=f"no .png, .*files in {folder}"):
        dataset(folder)


def test_the_same_name_twice_is_an_error(tmp_path):
    with pytest.raises(UserError, match="same folder and file name"):
        ImageCrops([tmp_path / "x/data/a.png", tmp_path / "y/data/a.png"])


def test_one_image_cannot_be_split(folder):
    for path in sorted(folder.glob("*.png"))[1:]:
        path.unlink()
    with pytest.raises(UserError, match="at least two groups"):
        pixels(dataset(folder))
