"""CIFAR as it is published: the binary version, the hub's Parquet, folders of images, and an archive of them."""

import io
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saelib.config.datasets import Cifar10
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.fetch.archive import unpack

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(12, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(12) % 10


def binary(pixels=PIXELS, labels=LABELS) -> bytes:
    """Records of the binary version: label, then the red, green and blue plane, row by row."""
    return b"".join(
        bytes([label]) + b"".join(image[..., channel].tobytes() for channel in range(3))
        for image, label in zip(pixels, labels, strict=True)
    )


def png(image) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, pixels=PIXELS, **more):
    """Writes images as `datasets` writes an Image column."""
    images = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(pixels)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"label": pa.array(range(len(pixels))), "img": pa.array(images, kind)} | more
    pq.write_table(pa.table(columns), path, row_group_size=5)


def write_folders(folder, pixels=PIXELS):
    for i, image in enumerate(pixels):
        place = folder / ("cat", "dog")[i % 2]
        place.mkdir(exist_ok=True, parents=True)
        (place / f"{i}.png").write_bytes(png(image))


def dataset(path, size=32):
    return open_dataset(Cifar10(kind="cifar10", files=(LocalFiles(path=path),), size=size))


def examples(data, seed=0):
    return [example for split in ("train", "heldout") for example in data.examples(split, seed, 0.3)]


def same_images(found, wanted=PIXELS):
    def key(images):
        return sorted(image.tobytes() for image in images)

    assert key(example.content for example in found) == key(wanted)


def test_the_binary_version(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(binary(PIXELS[:7], LABELS[:7]))
    (tmp_path / "test_batch.bin").write_bytes(binary(PIXELS[7:], LABELS[7:]))
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\n")
    found = examples(dataset(tmp_path))
    same_images(found)
    number = {example.id.split("/")[1]: example.content for example in found}
    assert np.array_equal(number["test_batch.bin#2"], PIXELS[9])


def test_cifar_100s_binary_has_two_labels(tmp_path):
    record = binary()
    coarse_and_fine = b"".join(b"\x13" + b"\x63" + record[i + 1 : i + 3073] for i in range(0, len(record), 3073))
    (tmp_path / "train.bin").write_bytes(coarse_and_fine)
    same_images(examples(dataset(tmp_path / "train.bin")))


def test_the_archive_of_the_binary_version(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.size = len(binary())
        archive.addfile(info, io.BytesIO(binary()))
    (tmp_path / "out").mkdir()
    unpack(path, path.name, tmp_path / "out")
    same_images(examples(dataset(tmp_path / "out")))


def test_the_hubs_parquet_whatever_its_column_is_called(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00001.parquet")
    same_images(examples(dataset(tmp_path)))


def test_folders_of_images_by_class(tmp_path):
    write_folders(tmp_path)
    same_images(examples(dataset(tmp_path)))


def test_every_image_is_a_group_and_repeats_are_one_example(tmp_path):
    doubled = np.concatenate([PIXELS, PIXELS[:5]])
    (tmp_path / "a.bin").write_bytes(binary(doubled, np.arange(17) % 10))
    data = dataset(tmp_path)
    same_images(examples(data))
    train, heldout = (list(data.examples(split, 0, 0.3)) for split in ("train", "heldout"))
    assert len({example.group for example in train + heldout}) == 12
    assert len(heldout) == 3


def test_order_and_split_are_the_seeds_not_the_files(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "x.bin").write_bytes(binary())
    (two / "a.bin").write_bytes(binary(PIXELS[::-1][:4], LABELS[:4]))
    (two / "b.bin").write_bytes(binary(PIXELS[::-1][4:], LABELS[4:]))
    first, again = ([example.content.tobytes() for example in examples(dataset(folder))] for folder in (one, two))
    assert first == again
    assert [example.content.tobytes() for example in examples(dataset(one), seed=1)] != first


def test_images_are_scaled_up_bicubic_and_stay_in_place(tmp_path):
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], (32, 32, 3))
    (tmp_path / "a.bin").write_bytes(binary(np.stack([ramp, PIXELS[0]]), LABELS[:2]))
    found = {example.id: example.content for example in examples(dataset(tmp_path, size=224))}
    image = found[f"{tmp_path.name}/a.bin#0"].astype(float)
    assert image.shape == (224, 224, 3)
    # A ramp stays that ramp: pixel r of 32 covers rows 7r to 7r + 6. Bicubic interpolation is exact on it.
    wanted = 8 * ((np.arange(224) + 0.5) / 7 - 0.5)
    np.testing.assert_allclose(image[14:-14], np.broadcast_to(wanted[14:-14, None, None], (196, 224, 3)), atol=0.51)
    assert (image == image[:, :1, :1]).all()


def test_scaling_up_is_cubic_convolution(tmp_path):
    (tmp_path / "a.bin").write_bytes(binary(PIXELS[:2], LABELS[:2]))
    found = {example.id: example.content for example in examples(dataset(tmp_path, size=96))}
    # Keys (1981) with a = -1/2, one axis after the other.
    weights = np.zeros((96, 32))
    for row in range(96):
        place = (row + 0.5) / 3 - 0.5
        distance = np.abs(np.arange(32) - place)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        weights[row] = kernel / kernel.sum()
    wanted = np.einsum("rh,cw,hwk->rck", weights, weights, PIXELS[0].astype(float)).clip(0, 255)
    image = found[f"{tmp_path.name}/a.bin#0"].astype(float)
    # Pillow rounds and clips between the axes.
    assert np.abs(image - wanted).mean() < 2
    assert np.quantile(np.abs(image - wanted), 0.9) < 2


@pytest.mark.parametrize("size", [0, 3072, 3073 * 4 - 1, 3073 * 4 + 1])
def test_a_file_of_the_wrong_length_is_refused(tmp_path, size):
    (tmp_path / "a.bin").write_bytes(binary()[:size])
    with pytest.raises(UserError, match=rf"a\.bin: has {size} bytes, not a multiple of 3073 or 3074"):
        dataset(tmp_path)


def test_a_label_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(binary(labels=[*range(10), 10, 0]))
    with pytest.raises(UserError, match=r"a\.bin: has label 10"):
        dataset(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "train", "set.pkl"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_objects_are_refused_unread(tmp_path, name, protocol):
    bomb = type("Bomb", (), {"__reduce__": lambda self: (pytest.fail, ("code of the file was run",))})()
    (tmp_path / name).write_bytes(pickle.dumps({b"data": bomb}, protocol=protocol))
    with pytest.raises(UserError, match=r"pickled Python objects.*binary version"):
        dataset(tmp_path)


def test_what_parquet_must_hold(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [1], "text": ["x"]}), path)
    with pytest.raises(UserError, match=r"one column of images .* among: label, text"):
        dataset(path)
    empty = pa.array([{"bytes": None, "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"img": empty}), path)
    with pytest.raises(UserError, match="an image of column 'img' is missing"):
        dataset(path)
    write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        dataset(path)


def test_what_an_image_must_be(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"(40 x 30|64 x 64) pixels; should be a square of at most 32"):
        examples(dataset(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        examples(dataset(tmp_path, size=64))


def test_no_images_at_all(tmp_path):
    (tmp_path / "README").write_text("about")
    with pytest.raises(UserError, match=rf"no \.bin, \.parquet, .* files in {tmp_path}"):
        dataset(tmp_path)
