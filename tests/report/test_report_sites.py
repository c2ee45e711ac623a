"""Tables, figures and page name the site of a layer if it is not the residual stream, and keep sites apart."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from selenium.webdriver.support.wait import WebDriverWait

from saelib import report
from saelib.config import Config
from saelib.config.sites import LayerSite
from saelib.files.sealed import read_json, write_json
from saelib.report.charts import make_charts
from saelib.report.figures.death_by_layer import death_by_layer
from saelib.report.figures.landscapes import landscapes
from saelib.report.figures.style import styled
from saelib.report.figures.training import training_curves
from tests.report.chromium import open_page

NAME, LAST = "minilm-l6", 6


@pytest.fixture
def both(suite: Config) -> Config:
    """The suite with MLP outputs of one model, whose made-up results are those of its residual streams."""
    model = suite.models[NAME].model_copy(update={"sites": ("residual", "mlp_out")})
    config = suite.model_copy(update={"models": suite.models | {NAME: model}})
    for layer in model.layers:
        for path in (config.stats_path, config.init_death_path):
            _copy(path(NAME, layer), path(NAME, LayerSite(layer, "mlp_out")))
    for variant in config.train.variants:
        old, new = (config.train_path(NAME, at, variant) for at in (LAST, LayerSite(LAST, "mlp_out")))
        shutil.copytree(old, new)
        write_json(new / "sweep.json", read_json(new / "sweep.json") | {"site": "mlp_out"})
    rows = read_json(config.theory_path())
    key = next(name for name, value in rows.items() if isinstance(value, list))
    rows[key] += [row | {"site": "mlp_out"} for row in rows[key] if row["model"] == NAME]
    write_json(config.theory_path(), rows)
    return config


def _copy(old: Path, new: Path) -> None:
    for suffix in (".json", ".safetensors"):
        if old.with_suffix(suffix).exists():
            shutil.copy(old.with_suffix(suffix), new.with_suffix(suffix))


def test_every_table_has_the_rows_of_both_sites(both: Config):
    results = report.read_results(both)
    assert not results.gaps
    for name, table in report.make_tables(both, results).items():
        if name != "spearman":
            of_site = [table.filter(model=NAME, site=site).drop("site") for site in ("residual", "mlp_out")]
            assert of_site[0].height > 0
            assert of_site[0].equals(of_site[1])
            assert set(table.filter(model="hyenadna-tiny")["site"]) == {"residual"}


def test_the_page_names_links_and_describes_each_site(both: Config, suite: Config, render):
    page, plain = render(both), render(suite)
    assert f'href="#layer/{NAME}/3/mlp_out"' in page
    assert f">{NAME} layer 6 mlp_out</option>" in page
    assert f"stats/{NAME}/layer_3_mlp_out.json" in page
    assert f"train/{NAME}/layer_6_mlp_out/auxk/sweep.json" in page
    assert f"<strong>{NAME} layer 3, 3 mlp_out</strong>: fewer than 5 tokens" in page
    heading = '<button type="button">site</button>'
    assert (page.count(heading), plain.count(heading)) == (3, 0)  # a column only where there is another site


def test_figures_and_charts_have_a_panel_for_each_site(both: Config):
    tables = report.make_tables(both, report.read_results(both))
    with styled():
        figures = death_by_layer(tables["layers"]), landscapes(both, tables["layers"])
    panels = [[axes for axes in figure.axes if axes.get_visible()] for figure in figures if figure]
    assert [[axes.get_title("left") for axes in shown] for shown in panels] == [
        [NAME, f"{NAME} mlp_out", "hyenadna-tiny"],
        [f"{NAME}, layer 6", f"{NAME}, layer 6 mlp_out", "hyenadna-tiny, layer 2"],
    ]
    curves = training_curves(both, tables["training"])
    assert curves is not None
    rows = [axes.get_ylabel() for axes in curves.axes if axes.get_ylabel()]
    assert rows == [f"{NAME}\nlayer 6", f"{NAME}\nlayer 6 mlp_out", "hyenadna-tiny\nlayer 2"]
    charts = make_charts(both, tables)
    assert charts["finding"].spec["encoding"]["y"]["sort"] == [NAME, f"{NAME} mlp_out", "hyenadna-tiny"]
    assert charts["trained"].spec["encoding"]["y"]["sort"] == [f"{NAME} L6", f"{NAME} L6 mlp_out", "hyenadna-tiny L2"]


def test_curves_of_two_sites_are_thinned_apart(both: Config):
    from saelib.report.training import SHOWN, thinned

    training = report.make_tables(both, report.read_results(both))["training"]
    curve = training.filter(model=NAME, variant="auxk", peak_learning_rate=1e-3)
    long = pl.concat([curve] * SHOWN).with_columns(step=pl.int_range(pl.len()).over("site"))
    kept = thinned(long)
    for site in ("residual", "mlp_out"):
        steps = kept.filter(site=site)["step"]
        assert len(steps) >= SHOWN // 2
        assert steps.max() == long["step"].max()


@pytest.mark.browser
def test_a_card_and_the_curves_are_those_of_one_site(browser: Any, both: Config, render):
    path = both.results / "sites.html"
    path.write_text(render(both))
    open_page(browser, path)
    browser.execute_script("location.hash = arguments[0]", f"#layer/{NAME}/6/mlp_out")
    WebDriverWait(browser, 20).until(lambda window: window.execute_script("return card.open"))
    title, links, trained = browser.execute_script(
        "return [document.getElementById('card-title').textContent, [...card.querySelectorAll('a')]"
        ".map((a) => a.getAttribute('href')), card.querySelectorAll('.wide')[1].querySelectorAll('tr').length - 1]"
    )
    assert title == f"{NAME}, layer 6 mlp_out"
    assert links == [f"#model/{NAME}", *(f"{stage}/{NAME}/layer_6_mlp_out.json" for stage in ("stats", "init_death"))]
    assert trained == len(both.train.variants)
    choose_curve = "const s = document.getElementById('trained-layer'); s.selectedIndex = 1; return s.value"
    assert browser.execute_script(choose_curve) == f"{NAME} layer 6 mlp_out"
    assert browser.execute_script("return [...new Set(rowsOf('training').map((row) => row.site))]") == ["mlp_out"]
