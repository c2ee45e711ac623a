"""The page's numbers of its own: costs of each preprocessing, γ for a rate of death; and the columns that it shows."""

import polars as pl
import pytest

from saelib import report
from saelib.config import Config
from saelib.files.sealed import read_json, write_json
from saelib.report.columns import SAE_COLUMNS, telling
from saelib.report.finding import costs, gamma_at
from saelib.theory import closed_forms


def test_theory_expects_each_rate_at_its_gamma(suite: Config):
    options, tokens = suite.init_death, suite.extraction.heldout_tokens
    found = gamma_at(suite, (0.1, 0.5, 0.9, 1.5))
    assert [rate for rate, _ in found] == [0.1, 0.5, 0.9]  # no γ leaves more than all latents dead
    for rate, gamma in found:
        assert closed_forms.dead_total(gamma, options.d_sae, options.k, tokens) == pytest.approx(rate, abs=1e-3)


def test_costs_are_those_of_the_best_sae_under_each_preprocessing(suite: Config):
    for variant, fvu in {"baseline": 0.3, "auxk": 0.2, "center_median": 0.25, "pca": 0.4}.items():
        path = suite.train_path("minilm-l6", 6, variant) / "sweep.json"
        runs = read_json(path)["runs"]
        runs[1] |= {"token_fvu_median": fvu, "dead_total": fvu / 10}
        write_json(path, read_json(path) | {"runs": runs})
    results = report.read_results(suite)
    layers = report.layers_table(suite, results)
    rows = pl.DataFrame(costs(results, layers))
    assert rows.select("model", "layer").rows() == [("minilm-l6", 6), ("hyenadna-tiny", 2)]
    row = rows.row(0, named=True)
    for name, fvu in {"raw": 0.2, "center_median": 0.25, "pca": 0.4}.items():
        assert row[f"explained_{name}"] == pytest.approx(1 - fvu)
        assert row[f"dead_{name}"] == pytest.approx(fvu / 10)
        assert row[f"born_dead_{name}"] == results.init_death[report.Place("minilm-l6", 6)][name].dead_total.mean


def test_options_that_all_saes_share_have_no_column(suite: Config):
    saes = report.saes_table(suite, report.read_results(suite))
    names = {column.name for column in telling(SAE_COLUMNS, saes)}
    assert {"preprocessing", "dead_latents"} <= names
    assert "architecture" not in names
