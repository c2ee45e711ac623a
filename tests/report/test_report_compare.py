"""The suite's layers next to those of another table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from saelib.config import Config
from saelib.config.compare import CompareConfig
from saelib.errors import UserError
from saelib.report.build import make_tables
from saelib.report.compare import compared_table, comparison, read_other
from saelib.report.results import read_results
from tests.report.chromium import open_page

DEATH = "".join(f",dead_pct_init_{name}" for name in ("topk", "relu", "centered", "ln_centered", "pca"))
RELEASED = f"""model,layer,hidden_dim,gamma,gamma_raw,effective_rank{DEATH},domain
splice,16,32,3.5,2.5,12.25,60.0,10.0,5.0,0.5,0.25,biology
splice,15,32,3,2,11,50.0,9.0,NA,0.5,0.0,biology
other,1,32,1,1,30,1.0,0.0,0.0,0.0,0.0,language
"""


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "init_stats.csv"
    path.write_text(RELEASED)
    return path


@pytest.fixture
def comparing(complete: Config, released: Path) -> Config:
    compare = CompareConfig(table=released, names={"spliceai-10k": "splice"})
    return complete.model_copy(update={"compare": compare})


def test_the_released_table_is_read_in_fractions(released: Path):
    first, second, _ = read_other(released).to_dicts()
    assert first == {
        "model": "splice", "layer": 16, "gamma": 3.5, "gamma_raw": 2.5, "effective_rank": 12.25, "dead_total": 0.6,
        "dead_relu": 0.1, "dead_total_center_median": 0.05, "dead_total_pca": 0.0025,
    }  # fmt: skip
    assert second["dead_total_center_median"] is None


def test_layers_of_both_tables_stand_next_to_each_other(comparing: Config):
    tables = make_tables(comparing, read_results(comparing))
    rows = tables["compared"].to_dicts()
    assert [(row["model"], row["layer"]) for row in rows] == [("spliceai-10k", 15), ("spliceai-10k", 16)]
    own = tables["layers"].filter(model="spliceai-10k", layer=16).to_dicts()[0]
    last = rows[-1]
    assert (last["dead_total_there"], last["dead_total"]) == (0.6, own["dead_total"])
    assert (last["gamma_there"], last["gamma"]) == (3.5, own["gamma"])
    found = comparison(comparing.compare, tables["compared"])
    assert found is not None
    distance = np.mean([abs(row["dead_total"] - row["dead_total_there"]) for row in rows])
    assert (found.layers, found.rho) == (2, None)
    assert found.distance == pytest.approx(distance)


def test_a_suite_agrees_with_itself(complete: Config, tmp_path: Path):
    layers = make_tables(complete, read_results(complete))["layers"]
    layers.write_parquet(tmp_path / "layers.parquet")
    compare = CompareConfig(table=tmp_path / "layers.parquet")
    compared = compared_table(compare, layers)
    found = comparison(compare, compared)
    assert found is not None
    assert (found.layers, found.distance, found.rho) == (layers.height, 0, pytest.approx(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,layer\na,1\n", "no column 'dead_total' or 'dead_pct_init_topk'; columns: model, layer"),
        ("model,dead_total\na,1\n", "no column 'layer'"),
        ("model,layer,dead_total\na,1,many\n", "many"),
        ("model,layer,dead_total\na,1,0\na,1,0\n", "names a layer twice"),
        ("model,layer,dead_total\na,1,0\n", r"none of the suite's layers; its models are a\. Say which"),
    ],
)
def test_another_table_is_refused_in_one_sentence(text: str, message: str, complete: Config, tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    layers = make_tables(complete, read_results(complete))["layers"]
    with pytest.raises(UserError, match=message):
        compared_table(CompareConfig(table=path), layers)


def test_a_table_that_cannot_be_read_is_a_gap_and_stops_nothing(complete: Config, tmp_path: Path):
    missing = complete.model_copy(update={"compare": CompareConfig(table=tmp_path / "missing.csv")})
    results = read_results(missing)
    assert "compared" not in make_tables(missing, results)
    assert f"{tmp_path}/missing.csv: no such table" in [gap.reason for gap in results.gaps]


def test_names_of_models_that_do_not_exist_are_refused(complete: Config, released: Path):
    content = complete.model_dump(mode="json", exclude={"models", "datasets"})
    source = {"family": "arrays", "files": {1: "a.npy"}}
    content["models"] = {"mine": {"domain": "own", "source": source, "layers": 1}}
    content["compare"] = {"table": str(released), "names": {"yours": "splice"}}
    with pytest.raises(ValidationError, match=r"compare.names: 'yours' is no model of the suite; models are mine"):
        Config.model_validate(content)


@pytest.mark.browser
def test_the_page_shows_both(browser: Any, comparing: Config, render: Any):
    path = comparing.results / "compared.html"
    path.write_text(render(comparing))
    open_page(browser, path)
    text = browser.execute_script("return document.getElementById('comparison').innerText")
    assert "Next to init_stats.csv" in text
    assert "2 layers are in both tables" in text
    marks = "return document.querySelectorAll('#compared path[aria-label*=spliceai-10k]').length"
    assert browser.execute_script(marks) == 2


def test_without_another_table_the_page_has_no_such_section(complete: Config, render: Any):
    assert "comparison" not in render(complete)
