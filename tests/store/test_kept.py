"""Rows that stay on a device while a store is written are bit for bit those that readers of the store get."""

from pathlib import Path

import numpy as np
import pytest

from saelib.activations.rows import Rows
from saelib.init_death.measure import measure
from saelib.preprocessing.fit import make_preprocessing
from saelib.stats import compute_stats
from saelib.store import Split, Store, StoreWriter, open_store
from saelib.store.kept import KeptStore, KeptStores
from saelib.store.rounding import choose_offset
from tests.store.metadata import described

D, CHUNK = 24, 64
TOKENS: dict[Split, int] = {"train": 1000, "heldout": 300}
HALVES = 2 * D * sum(TOKENS.values())
"""Bytes of a layer in float16."""


def activations(large: dict[Split, int]) -> dict[Split, np.ndarray]:
    """Rows about a large mean; the row `large` of a split has a value that float16 cannot hold."""
    rng = np.random.default_rng(0)
    mean = 5 * rng.standard_normal(D)
    found: dict[Split, np.ndarray] = {
        split: (rng.standard_normal((count, D)) + mean).astype(np.float32) for split, count in TOKENS.items()
    }
    for split, row in large.items():
        found[split][row, 3] = 1e6
    return found


def write(path: Path, kept: KeptStores, acts: dict[Split, np.ndarray], layer: int = 3) -> Store:
    offset = choose_offset(acts["train"][:64])
    path.mkdir()
    splits = kept.start(layer, f"m layer {layer}", TOKENS, offset, CHUNK)
    writer = StoreWriter(
        path, tokens=TOKENS, d_in=D, offset=offset, chunk_rows=CHUNK, window_rows=300, seed=3, kept=splits
    )
    for split, rows in acts.items():
        for start in range(0, len(rows), 90):  # batches that fit neither chunks nor windows
            part = rows[start : start + 90]
            writer.append(split, part, np.arange(start, start + len(part), dtype=np.int32))
    writer.finish(described(writer, layer=layer))
    return open_store(path)


def assert_same(kept: Rows, stored: Rows) -> None:
    assert (kept.name, kept.shape, kept.block_rows) == (stored.name, stored.shape, stored.block_rows)
    for start, stop in ((0, stored.shape[0]), (70, 133), (stored.shape[0] - 1, stored.shape[0])):
        one, other = kept.block(start, stop), stored.block(start, stop)
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    assert (kept.offset is None) == (stored.offset is None)
    if kept.offset is not None and stored.offset is not None:
        assert kept.offset.tobytes() == stored.offset.tobytes()


@pytest.mark.parametrize(
    ("large", "dtypes"),
    [
        ({}, ("float16", "float16")),
        ({"train": 0}, ("float32", "float16")),
        ({"train": 500}, ("float32", "float16")),
        ({"train": 999, "heldout": 120}, ("float32", "float32")),
    ],
    ids=["float16", "float32 at once", "float32 in the second window", "float32 at the end"],
)
def test_they_are_what_the_store_gives(
    tmp_path: Path, device: str, large: dict[Split, int], dtypes: tuple[str, str]
) -> None:
    kept = KeptStores(device, room=4 * HALVES)
    store = write(tmp_path / "s.zarr", kept, activations(large))
    assert tuple(store.metadata.dtypes.values()) == dtypes
    rows = kept.take(3)
    assert rows is not None
    assert_same(rows.train, store.train)
    assert_same(rows.heldout, store.heldout)
    assert rows.train.on_device(0, 1).device.type == device


@pytest.mark.parametrize("large", [{}, {"train": 500}], ids=["float16", "float32"])
def test_statistics_and_deaths_have_the_bits_of_those_from_the_store(
    tmp_path: Path, device: str, large: dict[Split, int]
) -> None:
    kept = KeptStores(device, room=4 * HALVES)
    store = write(tmp_path / "s.zarr", kept, activations(large))
    rows = kept.take(3)
    assert rows is not None
    for name in ("cpu", "cpu:0" if device == "cpu" else device):  # "cpu:0" takes the code for GPUs

        def found(of: Store | KeptStore, name: str = name) -> tuple[object, ...]:
            stats = compute_stats(of.train, device=name)
            arrays = stats.arrays
            preprocessings = {one: make_preprocessing(one, arrays, tokens=1000, name="m") for one in ("raw", "pca")}
            deaths = measure(of.heldout, preprocessings, 128, 4, [0, 1], device=name).to_dict()
            scalars = {key: value for key, value in vars(stats).items() if key != "arrays"}
            return scalars, {key: value.tobytes() for key, value in arrays.items()}, deaths

        assert found(rows) == found(store)


def test_layers_are_kept_as_long_as_they_fit(tmp_path: Path, device: str) -> None:
    kept = KeptStores(device, room=2.5 * HALVES)
    acts = activations({})
    stores = {layer: write(tmp_path / f"{layer}.zarr", kept, acts, layer) for layer in (1, 2, 3)}
    taken = {layer: kept.take(layer) for layer in stores}
    assert [layer for layer, rows in taken.items() if rows] == [1, 2]
    for layer, rows in taken.items():
        if rows:
            assert_same(rows.heldout, stores[layer].heldout)
        assert kept.take(layer) is None  # so nothing refers to them when their statistics are done


def test_a_layer_that_becomes_too_wide_is_dropped_and_its_store_is_not(tmp_path: Path, device: str) -> None:
    kept = KeptStores(device, room=1.5 * HALVES)
    store = write(tmp_path / "s.zarr", kept, activations({"train": 500}))
    assert store.metadata.dtypes["train"] == "float32"
    assert kept.take(3) is None


def test_without_a_gpu_nothing_fits_unless_the_room_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    kept = KeptStores("cpu")
    write(tmp_path / "s.zarr", kept, activations({}))
    assert kept.room.size == 0
    assert kept.take(3) is None
