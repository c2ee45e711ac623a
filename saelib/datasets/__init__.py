"""Real data as deterministic streams of examples: one module for each kind, imported when it is used."""

from importlib import import_module

from saelib.config import DatasetConfig
from saelib.datasets.base import Dataset, Example, Split
from saelib.datasets.listing import Listing

KINDS = {
    "python_docs": "saelib.datasets.python_docs",
    "text": "saelib.datasets.text",
    "tagged_text": "saelib.datasets.tagged",
    "images": "saelib.datasets.images",
    "cifar10": "saelib.datasets.cifar10",
    "sequences": "saelib.datasets.sequences",
}
"""Kind in the config -> module with an `open_dataset(config)` and, if it reads files, a `listing(config)`."""


def open_dataset(config: DatasetConfig) -> Dataset:
    """Opens the data set that a config entry describes; its files are fetched into the cache if necessary."""
    return import_module(KINDS[config.kind]).open_dataset(config)


def listing_of(config: DatasetConfig) -> Listing | None:
    """Lists the files that a config entry names and those that it leaves out; None if it names no files.

    The files are fetched into the cache if necessary.

    Raises:
        UserError: if none of the files can be read.
    """
    return import_module(KINDS[config.kind]).listing(config) if getattr(config, "files", None) else None


__all__ = ["KINDS", "Dataset", "Example", "Listing", "Split", "listing_of", "open_dataset"]
