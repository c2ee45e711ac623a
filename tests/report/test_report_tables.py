"""The tables repeat the result files, and results that are missing or broken become gaps."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelib import report
from saelib.config import Config
from saelib.files.sealed import read_json, read_sealed, write_json
from saelib.init_death.result import load_result
from saelib.preprocessing.recommend import MeasuredDeath, recommend
from saelib.report import Place, landscape_table, layers_table, read_results, saes_table, spearman_rows
from saelib.stats import load_stats
from saelib.theory.result import load_predictions
from saelib.train.result import load_sweep


def edit(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def count_shown(result: Any, row: dict[str, Any], but: str = "") -> int:
    """Compares a row with those fields of a result that it shows, and counts them."""
    shown = {field.name for field in fields(result)} & row.keys() - {but}
    assert {name: row[name] for name in shown} == {name: getattr(result, name) for name in shown}
    return len(shown)


def row_of(table: pl.DataFrame, **where: Any) -> dict[str, Any]:
    return table.filter(**where).row(0, named=True)


def test_a_row_for_each_layer_in_the_order_of_the_config(complete: Config):
    table = pl.read_parquet(complete.results / "tables" / "layers.parquet")
    wanted = [(name, layer) for name, model in complete.models.items() for layer in model.layers]
    assert table.select("model", "layer").rows() == wanted
    assert table.null_count().sum_horizontal().item() == 0


def test_csv_and_parquet_hold_the_same(complete: Config):
    for name in ("layers", "saes", "landscape"):
        file = complete.results / "tables" / name
        assert pl.read_csv(file.with_suffix(".csv")).equals(pl.read_parquet(file.with_suffix(".parquet")))


def test_a_layer_row_repeats_the_result_files(suite: Config):
    stats = load_stats(suite.stats_path("hyenadna-tiny", 2))
    death = load_result(suite.init_death_path("hyenadna-tiny", 2)).preprocessings
    predicted = load_predictions(suite.theory_path())[-1]
    row = row_of(layers_table(suite, read_results(suite)), model="hyenadna-tiny", layer=2)
    assert count_shown(stats, row, but="key") == 10
    assert row["domain"] == "genomic"
    assert (row["dead_relu"], row["dead_total"]) == (death["raw"].dead_relu.mean, death["raw"].dead_total.mean)
    assert row["dead_total_sd"] == death["raw"].dead_total.sd
    for name in ("center_median", "center_mean", "ln_center", "zscore", "pca"):
        assert row[f"dead_total_{name}"] == death[name].dead_total.mean
    for name in ("dead_relu", "dead_total", "dead_total_paper"):
        assert row[f"predicted_{name}"] == getattr(predicted, name)
    measured = {n: MeasuredDeath(d.dead_total.mean, d.dead_total.sd, 3) for n, d in death.items()}
    advice = recommend(measured)
    assert advice is not None
    assert row["recommendation"] == advice.preprocessing
    assert row["recommendation_reason"].startswith(advice.reason)  # what its trained SAE explains comes after it
    assert row["key"] == "death-hyenadna-tiny-2"


def test_predicted_death_has_a_row_for_each_size(suite: Config):
    found = load_result(suite.init_death_path("hyenadna-tiny", 2)).landscape
    assert found is not None
    table = landscape_table(suite, read_results(suite))
    rows = table.filter(model="hyenadna-tiny", layer=2, preprocessing="center_median")
    assert rows.select("d_sae", "k").rows() == [(32, 16), (2048, 16), (2048, 64)]
    (small, _), large = found.dead_total["center_median"]
    assert rows["dead_total"].to_list() == [small, *large]
    assert rows["standard_error"].to_list() == [0.01, 0.01, 0.005]
    assert table["preprocessing"].unique(maintain_order=True).to_list() == ["raw", "center_median", "pca"]


def test_death_that_was_counted_alone_has_no_row_of_predictions(suite: Config):
    edit(suite.init_death_path("hyenadna-tiny", 2), landscape=None)
    results = read_results(suite)
    assert not results.gaps
    assert landscape_table(suite, results).filter(model="hyenadna-tiny")["layer"].unique().to_list() == [1]


def test_an_sae_row_is_the_run_at_the_best_learning_rate(suite: Config):
    sweep = load_sweep(suite.train_path("minilm-l6", 6, "auxk") / "sweep.json")
    table = saes_table(suite, read_results(suite))
    row = row_of(table, model="minilm-l6", variant="auxk")
    assert table.height == 2 * len(suite.train.variants)
    best = sweep.runs[1]
    assert row["learning_rate"] == sweep.best_learning_rate == best.learning_rate
    assert (count_shown(best, row), count_shown(sweep, row)) == (10, 11)
    assert (row["learning_rate_at_end"], row["few_tokens_decide"]) == ("no", "no")
    assert (row["preprocessing"], row["architecture"], row["dead_latents"]) == ("raw", "topk", "auxk")


@pytest.mark.parametrize(("best", "said"), [(0, "low"), (1, "no"), (2, "high")])
def test_a_best_rate_at_an_end_of_the_grid_is_flagged(suite: Config, best: int, said: str):
    path = suite.train_path("minilm-l6", 6, "auxk") / "sweep.json"
    (_, run, _), rates = read_json(path)["runs"], (1e-4, 1e-3, 1e-2)
    edit(path, runs=[run | {"learning_rate": rate} for rate in rates], best_learning_rate=rates[best])
    row = row_of(saes_table(suite, read_results(suite)), model="minilm-l6", variant="auxk")
    assert row["learning_rate_at_end"] == said
    edit(path, runs=[run], best_learning_rate=1e-3)
    row = row_of(saes_table(suite, read_results(suite)), model="minilm-l6", variant="auxk")
    assert row["learning_rate_at_end"] == "only"


def test_where_trained_saes_reconstruct_much_worse_the_advice_is_another(suite: Config):
    """Whitening leaves the fewest dead, and its SAE explains less than nothing (DINOv2's last layer)."""
    path = suite.init_death_path("minilm-l6", 6)
    deaths, measured = {"raw": 0.5, "center_median": 0.085, "pca": 0.005}, read_json(path)["preprocessings"]
    for name, mean in deaths.items():
        measured[name]["dead_total"] = {"mean": mean, "sd": 0.0, "per_seed": [mean] * 3}
    edit(path, preprocessings=measured)
    for variant, fvu in {"baseline": 0.18, "auxk": 0.17, "center_median": 0.16, "pca": 1.4}.items():
        sweep = suite.train_path("minilm-l6", 6, variant) / "sweep.json"
        runs = read_json(sweep)["runs"]
        runs[1] |= {"token_fvu_median": fvu, "dead_total": 0.06}
        edit(sweep, runs=runs)
    table = layers_table(suite, read_results(suite))
    row = row_of(table, model="minilm-l6", layer=6)
    assert (row["recommendation"], row["recommendation_basis"]) == ("center_median", "death and reconstruction")
    assert (
        "Not PCA whitening (0.50% dead at initialization): its trained SAE explains -40.0%"
        in row["recommendation_reason"]
    )
    assert row_of(table, model="minilm-l6", layer=5)["recommendation_basis"] == "death"


def test_a_preprocessing_that_the_suite_adds_has_its_column(suite: Config):
    options = suite.init_death.model_copy(update={"preprocessings": ("raw", "rescale")})
    results = read_results(suite)
    table = layers_table(suite.model_copy(update={"init_death": options}), results)
    assert set(table.columns) == {*layers_table(suite, results).columns, "dead_total_rescale"}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda path: path.unlink(), "no result"),
        (lambda path: path.write_text("{"), "layer_4.json: not valid JSON"),
        (lambda path: path.write_text("[]"), "layer_4.json: content: "),
        (lambda path: edit(path, gamma="much"), "layer_4.json: gamma: "),
        (lambda path: path.write_text(path.read_text().replace('"gamma": ', '"gamma": NaN, "was": ')), "gamma: "),
        (lambda path: write_json(path, {"key": "x"}), "layer_4.json: tokens: "),
    ],
)
def test_unusable_statistics_leave_a_gap_and_the_rest_of_the_row(suite: Config, break_it: Any, reason: str):
    break_it(suite.stats_path("minilm-l6", 4))
    results = read_results(suite)
    (gap,) = results.gaps
    assert (gap.stage, gap.place) == ("stats", Place("minilm-l6", 4))
    assert reason in gap.reason
    assert str(suite.results) not in gap.reason
    row = row_of(layers_table(suite, results), model="minilm-l6", layer=4)
    assert row["gamma"] is None
    assert row["dead_total"] is not None
    for scope in spearman_rows(layers_table(suite, results)).filter(scope="overall").to_dicts():
        assert (scope["n"], scope["n_left_out"]) == (7, 1)


def test_a_layer_without_any_result_has_no_row(suite: Config):
    suite.stats_path("minilm-l6", 4).unlink()
    suite.init_death_path("minilm-l6", 4).unlink()
    results = read_results(suite)
    assert layers_table(suite, results).filter(model="minilm-l6")["layer"].to_list() == [1, 2, 3, 5, 6]
    assert [gap.stage for gap in results.gaps] == ["stats", "init_death"]


def test_gaps_are_logged_as_people_name_them(suite: Config, caplog: pytest.LogCaptureFixture):
    suite.init_death_path("minilm-l6", 4).unlink()
    (suite.train_path("minilm-l6", 6, "auxk") / "sweep.json").unlink()
    report.run(suite, "key")
    assert "init_death: minilm-l6 layer 4: no result" in caplog.text
    assert "train: minilm-l6 layer 6, auxk: no result" in caplog.text
    assert "Place(" not in caplog.text + (suite.results / "report.html").read_text().split("<script")[0]


def test_sweeps_that_diverged_are_gaps(suite: Config):
    path = suite.train_path("minilm-l6", 6, "pca") / "sweep.json"
    runs = [{"learning_rate": rate, "status": "diverged"} for rate in (1e-3, 1e-2)]
    edit(path, runs=runs, best_learning_rate=None)
    results = read_results(suite)
    (gap,) = results.gaps
    assert (gap.place, gap.reason) == (Place("minilm-l6", 6, "pca"), "all 2 learning rates diverged")
    assert saes_table(suite, results).filter(model="minilm-l6", variant="pca").is_empty()


def test_theory_may_be_missing_whole_or_in_part(suite: Config):
    rows = read_json(suite.theory_path())["rows"]
    edit(suite.theory_path(), rows=rows[1:])
    results = read_results(suite)
    assert [(gap.stage, gap.place) for gap in results.gaps] == [("theory", Place("minilm-l6", 1))]
    assert layers_table(suite, results)["predicted_dead_total"].null_count() == 1
    suite.theory_path().unlink()
    results = read_results(suite)
    assert [(gap.stage, gap.place) for gap in results.gaps] == [("theory", None)]
    assert layers_table(suite, results)["predicted_dead_total"].null_count() == 8


def test_preprocessings_that_were_not_measured_stay_empty(suite: Config):
    path = suite.init_death_path("minilm-l6", 4)
    measured = read_json(path)["preprocessings"]
    edit(path, preprocessings={"pca": measured["pca"]})
    row = row_of(layers_table(suite, read_results(suite)), model="minilm-l6", layer=4)
    assert row["dead_total"] is None
    assert row["dead_total_center_median"] is None
    assert row["dead_total_pca"] == 0
    assert row["recommendation"] == "pca"


def test_models_without_a_representative_layer_train_nothing(suite: Config):
    model = suite.models["minilm-l6"].model_copy(update={"representative_layer": None})
    config = suite.model_copy(update={"models": suite.models | {"minilm-l6": model}})
    assert set(saes_table(config, read_results(config))["model"]) == {"hyenadna-tiny"}
    assert read_results(config).gaps == []


def test_report_json_says_what_there_is(complete: Config):
    report = read_sealed(complete.results / "report.json")
    assert report == {
        "key": "report-key",
        "tables": {"layers": 74, "saes": 24, "spearman": 66, "training": 24 * 8, "landscape": 74 * 3 * 3},
        "figures": ["death_vs_gamma", "death_by_layer", "trained_death", "training", "landscapes"],
        "page": "report.html",
        "gaps": [],
    }
