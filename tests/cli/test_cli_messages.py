"""What a person reads of `saelib stats` and `saelib theory`: sentences for mistakes, progress, and what was read."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import zarr
from typer.testing import CliRunner

from saelib.activations.rows import ArrayRows
from saelib.cli import watch
from saelib.cli.main import app
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.extract.stage import extract

VALUES = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32) + 1


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Any:
    names = (None, "saelib.cli.watch", "saelib.activations.open")
    before = [
        (logging.getLogger(name), logging.getLogger(name).level, [*logging.getLogger(name).handlers]) for name in names
    ]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


def saelib(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output or done.exception
    return done.stdout


def refusal(*arguments: object) -> str:
    """What is said of a mistake; anything but a `UserError` or a usage error is a defect."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code != 0
    if isinstance(done.exception, UserError):
        return str(done.exception)
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 2
    return re.sub(r"[\s│]+", " ", done.output)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--gamma", "inf"], "--gamma inf: should be a finite number, 0 or more"),
        (["--gamma", "1e999"], "--gamma inf: should be a finite number, 0 or more"),
        (["--gamma", "nan"], "Invalid value for '--gamma'"),
        (["--gamma", "-inf"], "Invalid value for '--gamma'"),
        (["--gamma", "-1"], "Invalid value for '--gamma'"),
        (["--gamma", "five"], "Invalid value for '--gamma'"),
        (["--gamma", "5", "--k", "0"], "Invalid value for '--k'"),
        (["--gamma", "5", "--k", "2.5"], "Invalid value for '--k'"),
        (["--gamma", "5", "--k", "8193"], "k = 8193, d_sae = 8192: k must lie between 1 and d_sae"),
        (["--gamma", "5", "--d-sae", "0"], "Invalid value for '--d-sae'"),
        (["--gamma", "5", "--d-sae", "-4"], "Invalid value for '--d-sae'"),
        (["--gamma", "5", "--d-sae", "inf"], "Invalid value for '--d-sae'"),
        (["--gamma", "5", "--tokens", "1"], "Invalid value for '--tokens'"),
        (["--gamma", "5", "--tokens", "1" + 400 * "0"], "Invalid value for '--tokens'"),
        ([], "Missing option '--gamma'"),
    ],
)
def test_theory_refuses_what_is_no_number_of_the_kind(options: list[str], expected: str) -> None:
    assert expected in refusal("theory", *options)


@pytest.mark.parametrize("gamma", ["0", "1e-320", "5", "1e308"])
@pytest.mark.parametrize("k", [1, 8192])
@pytest.mark.parametrize("tokens", [2, 10**15])
def test_theory_prints_json_at_every_limit(gamma: str, k: int, tokens: int) -> None:
    values = json.loads(saelib("theory", "--gamma", gamma, "--k", k, "--tokens", tokens, "--json"))
    assert (values["t_k"] is None) == (k == 8192)  # minus infinity: every feature is selected
    assert all(0 <= values[name] <= 1 for name in ("dead_relu", "dead_total", "dead_total_paper"))


def test_stats_says_what_it_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for index in (2, 10):
        np.save(tmp_path / f"{index}.npy", VALUES[:1500].reshape(60, 25, 16))
    found = json.loads(saelib("stats", tmp_path, "--json"))
    assert found["source"] == [
        str(tmp_path),
        "2 files, 2.npy to 10.npy, one after another",
        "1 other passed over (1 .txt)",
        "[examples, context, 16] is read as 3,000 rows of 16",
    ]
    assert found["tokens"] == 3000
    table = saelib("stats", tmp_path)
    assert "1 other passed over (1 .txt)" in table
    assert "is read as 3,000 rows of 16" in table
    one = json.loads(saelib("stats", f"{tmp_path}/2.npy", "--json"))
    assert one["source"][1:] == ["[60, 25, 16] is read as 1,500 rows of 16"]


def test_stats_of_missing_chunks(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[1000:2000] = 0
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(500, 16))
    np.save(tmp_path / "a.npy", values)
    assert "2 of 6 chunks are missing, the first at rows 1,000 to 1,499" in refusal("stats", tmp_path / "a.zarr")
    filled = json.loads(saelib("stats", tmp_path / "a.zarr", "--fill-missing-chunks", "--json"))
    expected = json.loads(saelib("stats", tmp_path / "a.npy", "--json"))
    assert filled["warnings"] == expected["warnings"]
    assert "1000 tokens are all zeros, which suggests padding" in filled["warnings"]
    for name in ("gamma", "gamma_raw", "gamma_unit", "effective_rank", "excess_kurtosis", "norm_ratio"):
        assert filled[name] == pytest.approx(expected[name], rel=1e-6)


def test_stats_shows_progress_on_stderr_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("saelib.progress.LINE_EVERY_SECONDS", 0)
    np.save(tmp_path / "a.npy", VALUES)
    json.loads(saelib("stats", tmp_path / "a.npy", "--json"))
    lines = [record.message for record in caplog.records if record.name == "saelib.cli.watch"]
    done = [int(re.findall(r"a.npy: (\d+) of 60000 rows, [\d,]+ rows/s, \d+ s left", line)[0]) for line in lines]
    assert done[0] > 0
    assert done == sorted(done)
    assert done[-1] < 60000


def test_a_bar_is_full_at_the_end_however_many_passes_it_took() -> None:
    for reads in (1, 3, 50):
        steps: list[int] = []
        rows = watch.WatchedRows(ArrayRows(VALUES), lambda amount, note="", steps=steps: steps.append(amount), 9000)
        for _ in range(reads):
            np.testing.assert_array_equal(rows.block(0, 3000), VALUES)
        assert sum(steps) == min(3000 * reads, 8999)
        assert sum(steps) + rows.left == 9000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.npy", "none.npy: no such file or folder"),
        ("https://example.org/a.npy", "is a URL; download it first"),
        ("", "no file is named"),
        ("a.npy::acts", "leave '::acts' out"),
        ("nan.npy", "NaN or infinite values in 1 of 3000 tokens, the first in row 7 (counted from 0); find what made"),
        ("huge.npy", "values as large as 1e+300, whose squares float32 cannot hold, in 1 of 3000 tokens"),
        ("whole.npy", "holds int32; should be floating point"),
        ("flat.npy", "the array is [16]; should be [tokens, d_in] or [examples, context, d_in]"),
    ],
)
def test_stats_refuses_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", VALUES)
    np.save("whole.npy", VALUES.astype(np.int32))
    np.save("flat.npy", VALUES[0])
    for bad, file in ((np.nan, "nan.npy"), (1e300, "huge.npy")):
        values = VALUES.astype(np.float64)
        values[7, 3] = bad
        np.save(file, values)
    text = refusal("stats", name)
    assert expected in text
    assert "dtype" not in text


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "-1"], ["--workers", "nan"], ["--nothing"]])
def test_stats_refuses_options(tmp_path: Path, options: list[str]) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    assert "--" in refusal("stats", tmp_path / "a.npy", *options)


def test_help_shows_brackets() -> None:
    """Rich takes [tokens, d_in] for a style and leaves it out."""
    command = typer.main.get_command(app)
    for name in ("stats", "evaluate"):
        for parameter in command.commands[name].params:  # pyright: ignore[reportAttributeAccessIssue]
            assert "[" not in (getattr(parameter, "help", None) or "")


def test_only_stores_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "one.jpg").write_text("precious")
    zarr.create_group(tmp_path / "mine.zarr").create_array("acts", data=VALUES)
    monkeypatch.chdir(tmp_path / "photographs")
    for place in ("", ".", "..", tmp_path / "photographs", tmp_path / "mine.zarr"):
        assert "not a store, so it is left alone" in refusal("store", "delete", place)
    assert (tmp_path / "photographs" / "one.jpg").read_text() == "precious"
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "mine.zarr", mode="r")["acts"][:], VALUES)  # pyright: ignore


@pytest.mark.parametrize("damage", ["none", "no metadata", "half of its metadata", "no chunks"])
def test_damaged_stores_can_be_deleted(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "layer_1.zarr"
    np.save(tmp_path / "a.npy", VALUES)
    model = {"domain": "x", "source": {"family": "arrays", "files": {1: str(tmp_path / "a.npy")}}, "layers": 1}
    config = check_config({"models": {"m": model}, "extraction": {"tokens": 2000, "heldout_tokens": 1000}}, "test")
    extract("m", config, {1: "key"}, {1: path})
    file = path / "zarr.json"
    if damage == "no metadata":
        file.unlink()
    elif damage == "half of its metadata":
        file.write_text(file.read_text()[:100])
    elif damage == "no chunks":
        for split in ("train", "heldout"):
            shutil.rmtree(path / split)
    assert "deleted" in saelib("store", "delete", path)
    assert not path.exists()
