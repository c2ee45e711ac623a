"""The activation store: shuffled, checksummed activations of one layer of one model (see docs/architecture.md)."""

from saelib.store.layout import SPLITS, Split, StoreMetadata
from saelib.store.places import published_stores, read_key, read_keys, remove_store
from saelib.store.read import Store, open_store
from saelib.store.verify import verify_store
from saelib.store.write import StoreWriter

__all__ = [
    "SPLITS",
    "Split",
    "Store",
    "StoreMetadata",
    "StoreWriter",
    "open_store",
    "published_stores",
    "read_key",
    "read_keys",
    "remove_store",
    "verify_store",
]
