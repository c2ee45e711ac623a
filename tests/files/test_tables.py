"""Tables that people bring, and those that are published."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from saelib.errors import UserError
from saelib.files.tables import read_table, write_table

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
    read = read_table(tmp_path / name, ["layer"], ["layer", "gamma"])
    assert read.cast({"layer": pl.Int64}).equals(TABLE)


@pytest.mark.parametrize("name", ["layers.csv", "layers.parquet"])
def test_where_there_is_no_room_it_is_the_systems_error(tmp_path: Path, name: str) -> None:
    """Which ends a job with its sentence; an error of polars' would pass for a defect."""
    with pytest.raises(OSError, match="File too large"), no_room():
        write_table(TABLE, tmp_path / name)
    assert not list(tmp_path.iterdir())


ROWS = [("1", "2", "u"), ("2.5", "", "v"), ("3", "-1e300", "")]


def text_table(separator: str, newline: str = "\n") -> str:
    return "".join(separator.join(row) + newline for row in [("a", "b", "g"), *ROWS])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", text_table(",")),
        ("t.CSV", text_table(",", "\r\n")),
        ("t.csv", text_table(",", "\r")),
        ("t.csv", "\ufeff" + text_table(",")),
        ("t.csv", text_table(";")),
        ("t.csv", text_table(";").replace(".", ",")),
        ("t.csv", text_table("\t")),
        ("t.tsv", text_table("\t")),
        ("t.csv", text_table(";").replace("g", '"g, the group"', 1)),
    ],
)
def test_every_way_to_write_a_table_of_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    table = read_table(tmp_path / name, ["a", "b"], ["a", "b"])
    assert table.rows() == [(1.0, 2.0, "u"), (2.5, None, "v"), (3.0, -1e300, None)]


@pytest.mark.parametrize("cell", ["", "NA", "NaN", "nan", "n/a", "#N/A", "null", "None", " - "])
def test_cells_without_a_number_are_missing_wherever_they_stand(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n" + "3,4\n" * 200 + f"5,{cell}\n6,inf\n")
    numbers = read_table(tmp_path / "t.csv", ["b"], ["b"])["b"]
    assert numbers.null_count() == 1
    assert (numbers[0], numbers[-2], numbers[-1]) == (2.0, None, float("inf"))


def test_nan_of_a_parquet_table_is_missing(tmp_path: Path) -> None:
    pl.DataFrame({"b": [1.0, float("nan"), None]}).write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ["b"], ["b"])["b"].to_list() == [1.0, None, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"a,b,a\n1,2,3\n", "2 columns are called 'a'"),
        (b"a,c\n1,2\n", "no column 'b'"),
        (b"a,b\n1,2\n3,four\n", "the column 'b' should hold numbers.*; its row 2 below the header holds 'four'"),
        (b'a,b\n1,"1,234"\n', "its row 1 below the header holds '1,234'"),
        (b"a,b\n1,2,3,4\n", "not a valid .csv table"),
        ("a,b\n1,2\n".encode("utf-16"), "its text is not UTF-8"),
        (b"a,b\n1,2\xff\n", "its text is not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        read_table(tmp_path / "t.csv", ["a", "b"], ["a", "b"])
    assert "\n" not in str(refusal.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"abc")
    (tmp_path / "folder.csv").mkdir()
    for name, message in {
        "t.parquet": "not a valid .parquet table",
        "folder.csv": "cannot be read",
        "none.csv": "no such table",
        "t.xlsx": "allowed: .csv, .tsv, .parquet",
    }.items():
        with pytest.raises(UserError, match=message):
            read_table(tmp_path / name, ["a"], ["a"])
