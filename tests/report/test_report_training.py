"""The table of training over steps: every record of every rate, and only of histories that can be read."""

from collections.abc import Callable

import polars as pl
import pytest

from saelib import report
from saelib.config import Config
from saelib.report import Place
from saelib.report.training import PROBED, SHOWN, TRAINING, thinned, training_table
from saelib.train.history import PROBE_ROWS

PLACE = Place("minilm-l6", 6, "auxk")


def training_of(config: Config) -> pl.DataFrame:
    return training_table(config, report.read_results(config))


def test_every_record_of_every_variant_and_rate_is_there(suite: Config):
    table = training_of(suite)
    assert table.height == 2 * len(suite.train.variants) * 2 * 4
    chosen = table.filter(model=PLACE.model, variant=PLACE.variant)
    history = pl.read_parquet(suite.train_path(*PLACE) / "history.parquet")
    shared = [name for name in history.columns if name in TRAINING]
    assert chosen.select(shared).equals(history.select(shared))
    assert chosen.filter("best")["peak_learning_rate"].unique().to_list() == [1e-3]


@pytest.mark.parametrize(
    "damage",
    [
        lambda history: history.unlink(),
        lambda history: history.write_bytes(b"PAR1 no"),
        lambda history: pl.DataFrame({"step": [1]}).write_parquet(history),
        lambda history: pl.read_parquet(history).with_columns(step=pl.lit("x")).write_parquet(history),
    ],
)
def test_a_history_that_cannot_be_read_is_left_out(
    suite: Config, damage: Callable[..., None], caplog: pytest.LogCaptureFixture
):
    damage(suite.train_path(*PLACE) / "history.parquet")
    table = training_of(suite)
    assert table.filter(model=PLACE.model, variant=PLACE.variant).is_empty()
    assert table.height == (2 * len(suite.train.variants) - 1) * 8
    assert "minilm-l6 layer 6, auxk: no curve of training: " in caplog.text


def test_what_is_not_finite_is_missing(suite: Config):
    path = suite.train_path(*PLACE) / "history.parquet"
    bad = pl.Series([float("nan"), float("inf"), 0.5, None, 0.1, 0.1, 0.1, 0.1])
    pl.read_parquet(path).with_columns(token_fvu_median=bad).write_parquet(path)
    table = training_of(suite).filter(model=PLACE.model, variant=PLACE.variant)
    assert table["token_fvu_median"].to_list() == [None, None, 0.5, None, 0.1, 0.1, 0.1, 0.1]


def test_records_are_measured_on_as_many_tokens_as_the_page_says():
    assert PROBED == PROBE_ROWS


@pytest.mark.parametrize("records", [1, SHOWN, SHOWN + 2, 1000])
def test_the_page_keeps_few_records_and_the_last_of_each_curve(records: int):
    curves = [
        pl.DataFrame(
            {"model": "gpt2", "layer": 1, "site": "residual", "variant": "auxk"}
            | {"peak_learning_rate": rate, "step": range(records)}
        )
        for rate in (0.1, 0.2)
    ]
    kept = thinned(pl.concat(curves))
    for rate in (0.1, 0.2):
        steps = kept.filter(peak_learning_rate=rate)["step"].to_list()
        assert steps[-1] == records - 1
        assert min(records, SHOWN // 2) <= len(steps) <= SHOWN
