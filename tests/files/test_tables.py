"""Tables that are published."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from saelib.tables import read_table, write_table

TABLE = pl.DataFrame({"layer": range(2_000), "gamma": [layer**0.5 for layer in range(2_000)]})


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow beyond 1 kB, which fails as a full disk does; pytest's own output neither."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["layers.csv", "layers.parquet"])
def test_what_is_read_is_what_was_written(tmp_path: Path, name: str) -> None:
    write_table(TABLE, tmp_path / name)
    assert read_table(tmp_path / name, ["layer", "gamma"], ["gamma"]).equals(TABLE)


@pytest.mark.parametrize("name", ["layers.csv", "layers.parquet"])
def test_where_there_is_no_room_it_is_the_systems_error(tmp_path: Path, name: str) -> None:
    """Which ends a job with its sentence; an error of polars' would pass for a defect."""
    with pytest.raises(OSError, match="File too large"), no_room():
        write_table(TABLE, tmp_path / name)
    assert not list(tmp_path.iterdir())
