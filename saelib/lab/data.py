"""Activations of a cell: synthetic ones, or a layer of a real model."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows, read_float32
from saelib.config.synthetic import BenchmarkDataConfig, StoredDataConfig, SyntheticConfig
from saelib.errors import UserError
from saelib.store import open_store, read_key
from saelib.synthetic import SyntheticData, make_data
from saelib.synthetic.codes import Codes

DataConfig = SyntheticConfig | BenchmarkDataConfig | StoredDataConfig


class StoredSignal:
    """A layer of a real model as a `Signal`: random training rows, without known features."""

    def __init__(self, location: str) -> None:
        """Reads the layer's training rows into memory, 4 bytes a value. Raises `UserError` if there is no store."""
        if read_key(location) is None:
            raise UserError(f"data.store: there is no finished store at {location}; run the suite that extracts it")
        store = open_store(location)
        self.heldout: Rows = store.heldout
        self.heldout_examples: NDArray[np.integer] = store.heldout.examples()
        """[held-out tokens], the number of the example that each row came from."""
        self.rows = read_float32(store.train, 0, store.train.shape[0])
        """[training tokens, d_in], shuffled when they were stored."""
        self.features = np.zeros((0, store.train.shape[1]))
        self.mean = self.rows.mean(axis=0, dtype=np.float64)
        """[d_in]"""
        self.norm = float(np.sqrt(np.square(self.rows - self.mean).sum() / len(self.rows)))
        """||sigma||, the square root of the total variance."""

    def sample(self, tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], Codes]:
        """Draws training rows [tokens, d_in] with replacement."""
        nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
        rows = self.rows[rng.integers(len(self.rows), size=tokens)]
        return rows, Codes(np.zeros(tokens + 1, np.int64), *nothing)


@lru_cache(maxsize=1)
def _stored(location: str) -> StoredSignal:
    return StoredSignal(location)


def cell_data(config: DataConfig, seed: int) -> SyntheticData:
    """Makes the data of a cell. The rows of a real layer are the same for every seed; `source` is a `StoredSignal`."""
    if isinstance(config, StoredDataConfig):
        source = _stored(config.store)
        return SyntheticData(source, 1.0, np.zeros(source.rows.shape[1]))
    return make_data(config, seed)
