"""The page is complete in one file, and safe with text that somebody else wrote."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from saelib import report
from saelib.config import Config
from saelib.files.sealed import read_json, write_json

Render = Callable[[Config], str]


class Page(HTMLParser):
    """The elements of a page, and the text inside them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attrs.get(name) for found, attrs in self.elements if found == tag]


def test_the_page_asks_the_network_for_nothing(complete: Config):
    page = Page((complete.results / "report.html").read_text())
    for _, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data"):
                assert re.fullmatch(r"#[\w/%.~-]+|(tables|stats|init_death|train)/[\w/%.~-]+|figures/", value or "")
    assert not any(tag in ("link", "img", "iframe", "object", "base") for tag, _ in page.elements)
    style = re.findall(r"<style>(.*?)</style>", (complete.results / "report.html").read_text(), re.S)
    assert not any("url(" in text or "@import" in text for text in style)


def test_vega_is_there_once_and_the_policy_allows_exactly_our_scripts(complete: Config):
    page = Page((complete.results / "report.html").read_text())
    kinds = page.attributes("script", "type")
    assert kinds == ["application/json", "application/json", None, None]
    assert sum(len(script) > 500_000 for script in page.scripts) == 1
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[2:]]
    (policy,) = [content for content in page.attributes("meta", "content") if content and "default-src" in content]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy


def test_charset_title_and_language_are_stated(complete: Config):
    html = (complete.results / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert html.index('<meta charset="utf-8">') < 200
    assert page.attributes("html", "lang") == ["en"]
    assert "Dead latents: 74 layers of 6 models" in page.text


def test_rows_in_the_page_are_the_tables(complete: Config):
    import polars as pl

    page = Page((complete.results / "report.html").read_text())
    rows = json.loads(page.scripts[1])
    for name in ("layers", "saes"):
        table = pl.read_parquet(complete.results / "tables" / f"{name}.parquet").drop("key")
        assert rows[name] == table.to_dicts()
    charts = json.loads(page.scripts[0])
    places = page.attributes("div", "id")
    assert set(charts) == {"finding", "death-relu", "death-total", "by-layer", "trained", "training"} <= set(places)


def test_charts_find_every_field_in_their_rows(complete: Config):
    page = Page((complete.results / "report.html").read_text())
    charts, rows = json.loads(page.scripts[0]), json.loads(page.scripts[1])
    for chart in charts.values():
        computed = {name for found in _values(chart["spec"], "as") for name in np.atleast_1d(found)}
        curve = {name for points in chart["spec"].get("datasets", {}).values() for name in points[0]}
        fields = set(_values(chart["spec"], "field"))
        assert fields
        assert fields <= rows[chart["rows"]][0].keys() | computed | curve


def _values(node: Any, key: str) -> list[Any]:
    """Lists the values under a key, wherever it stands."""
    if isinstance(node, list):
        return [value for inner in node for value in _values(inner, key)]
    if not isinstance(node, dict):
        return []
    own = [node[key]] if key in node else []
    return own + [value for inner in node.values() for value in _values(inner, key)]


def test_every_table_has_a_link_in_the_page(complete: Config):
    page = Page((complete.results / "report.html").read_text())
    linked = {href for href in page.attributes("a", "href") if href and href.startswith("tables/")}
    written = {f"tables/{path.name}" for path in (complete.results / "tables").iterdir()}
    assert linked <= written
    assert {name for name in written if name.endswith(".csv")} <= linked


def test_a_short_suite_says_how_many_tokens_its_curves_are_counted_on(suite: Config, render: Render):
    extraction = suite.extraction.model_copy(update={"heldout_tokens": 1_024})
    assert "first 2,048 held-out tokens" in render(suite)
    assert "first 1,024 held-out tokens" in render(suite.model_copy(update={"extraction": extraction}))


def test_a_variant_without_curves_has_no_column_of_panels(suite: Config, render: Render):
    for history in suite.results.glob("train/*/*/auxk/history.parquet"):
        history.unlink()
    facet = json.loads(Page(render(suite)).scripts[0])["training"]["spec"]["encoding"]["facet"]
    assert facet["columns"] == len(suite.train.variants) - 1
    assert not any(panel.startswith("auxk") for panel in facet["sort"])


def test_text_from_config_and_results_stays_text(poisoned: Config, evil: str, render: Render):
    page = Page(render(poisoned))
    assert [tag for tag, _ in page.elements].count("script") == 4
    assert "img" not in {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
    assert page.text.count(evil) >= 4  # domain, license, notes, warning, variant
    domains = {row["domain"] for row in json.loads(page.scripts[1])["layers"]}
    assert domains == {"language", evil}


def test_names_that_break_out_of_vega_expressions_are_only_data(poisoned: Config, render: Render):
    """The charts' expressions are ours alone: no name from the config may be part of one."""
    charts = json.loads(Page(render(poisoned)).scripts[0])

    def expressions(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [
                text for key in ("calculate", "filter", "labelExpr", "expr") if isinstance(text := node.get(key), str)
            ]
            return own + [text for value in node.values() for text in expressions(value)]
        return [text for value in node for text in expressions(value)] if isinstance(node, list) else []

    assert expressions(charts)
    assert not any("alert" in text for text in expressions(charts))


def test_the_same_results_give_the_same_page(suite: Config, render: Render):
    assert render(suite) == render(suite)


def test_gaps_are_stated_once_with_their_layers(suite: Config, render: Render):
    for layer in (2, 3, 5):
        suite.init_death_path("minilm-l6", layer).unlink()
    (suite.train_path("hyenadna-tiny", 2, "pca") / "sweep.json").unlink()
    text = " ".join(Page(render(suite)).text.split())
    assert "minilm-l6 layer 2-3, 5: init_death: no result" in text
    assert "hyenadna-tiny layer 2, pca: train: no result" in text
    assert "Some results are missing." in text
    assert "8 of 8 layers" in text
    assert "7 of 8 autoencoders" in text


def test_remarks_name_their_layers_and_what_was_chosen_for_them(suite: Config, render: Render):
    path = suite.train_path("minilm-l6", 6, "pca") / "sweep.json"
    write_json(path, read_json(path) | {"preprocessing_reason": "The effective rank is below 2%."})
    text = " ".join(Page(render(suite)).text.split())
    assert "minilm-l6 layer 3: fewer than 5 tokens for each dimension" in text
    assert "minilm-l6 layer 6, pca: preprocessing chosen: pca. The effective rank" in text


def test_what_training_asks_to_mind_is_said(suite: Config, render: Render):
    path = suite.train_path("minilm-l6", 6, "pca") / "sweep.json"
    runs = read_json(path)["runs"]
    runs[1] |= {"variance_explained": 0.92, "token_fvu_median": 2.5, "learning_rate": 0.1}
    write_json(path, read_json(path) | {"runs": runs, "best_learning_rate": 0.1})
    text = " ".join(Page(render(suite)).text.split())
    where = "minilm-l6 layer 6, pca"
    assert f"{where}: variance explained is 0.920 over all tokens together and -1.500 of the typical token" in text
    assert f"{where}: the best learning rate, 0.1, is the highest of those tried; a larger one may do better" in text
    assert "Costs of each choice" in text


def test_nothing_missing_is_said_too(complete: Config):
    text = Page((complete.results / "report.html").read_text()).text
    assert "Nothing is missing: all 74 layers and 24 autoencoders of the suite are here." in text
    assert "Some results are missing" not in text


def test_the_headline_counts_the_recommendations(complete: Config):
    import polars as pl

    table = pl.read_parquet(complete.results / "tables" / "layers.parquet")
    counts = dict(table["recommendation"].value_counts().rows())
    text = " ".join(Page((complete.results / "report.html").read_text()).text.split())
    assert f"Of 74 measured layers, {counts['raw']} can be used as they are" in text
    assert f"{counts['center_median']} should be centered first, and {counts.get('pca', 0)} whitened" in text


def test_layers_over_one_percent_are_listed_even_if_centering_is_accepted(suite: Config, render: Render):
    for layer, left in ((4, 0.03), (5, 0.009)):
        path = suite.init_death_path("minilm-l6", layer)
        found = read_json(path)
        for name, mean in {"raw": 0.5, "center_median": left, "pca": 0.0}.items():
            found["preprocessings"][name]["dead_total"] = {"mean": mean, "sd": 0.0, "per_seed": [mean]}
        write_json(path, found)
    text = " ".join(Page(render(suite)).text.split())
    assert "all of them but 1, listed below. After centering, up to 5% is accepted." in text
    assert "minilm-l6 layer 4 keeps 3.00% dead (center; as it is, 50.0%)" in text
    assert "layer 5 keeps" not in text


def test_one_theory_and_intervals_over_whole_models(complete: Config):
    import polars as pl

    html = (complete.results / "report.html").read_text()
    text = " ".join(Page(html).text.split())
    layers = pl.read_parquet(complete.results / "tables" / "layers.parquet")
    measured = layers["dead_total"].to_numpy()
    away = np.abs(measured - layers["predicted_dead_total"].to_numpy()).mean()
    paper = np.abs(measured - layers["predicted_dead_total_paper"].to_numpy()).mean()
    assert f"Theory (the solid lines) is {100 * away:.1f} percentage points away" in text
    assert f"its form of its γ, is {100 * paper:.1f} away" in text
    rows = pl.read_csv(complete.results / "tables" / "spearman.csv").filter(scope="overall", y="dead_total")
    for gamma in ("gamma_unit", "gamma"):
        (row,) = rows.filter(x=gamma).to_dicts()
        assert (row["ci_over"], row["n_clusters"]) == ("model", 6)
        assert f"is {row['rho']:.2f} (95% interval {row['ci_low']:.2f} to {row['ci_high']:.2f})" in text
    curves = {point["curve"]: point for point in _curves(html)}
    assert set(curves) == {"theory", "the paper's form"}
    assert curves["theory"]["dead_total"] > curves["the paper's form"]["dead_total"]


def _curves(html: str) -> list[dict[str, Any]]:
    """Lists the points of the lines in the chart of all dead latents, the smallest gamma last."""
    spec = json.loads(Page(html).scripts[0])["death-total"]["spec"]
    (points,) = spec["datasets"].values()
    return sorted(points, key=lambda point: -point["gamma_unit"])


@pytest.mark.parametrize("missing", ["interval", "correlation"])
def test_a_suite_with_too_few_models_says_so(suite: Config, render: Render, missing: str):
    if missing == "correlation":
        for path in suite.results.glob("init_death/*/*.json"):
            if path.stem != "layer_1":
                path.unlink()
    text = " ".join(Page(render(suite)).text.split())
    said = "2 values of model, fewer than 3)" if missing == "interval" else "cannot be computed (2 pairs: fewer than 3)"
    assert said in text


@pytest.mark.parametrize(
    ("gone", "said"), [("init_death", "both a γ and a measured death"), ("train", "No autoencoder")]
)
def test_a_whole_stage_may_be_missing(suite: Config, render: Render, gone: str, said: str):
    (suite.results / gone).rename(suite.results / "elsewhere")
    assert said in Page(render(suite)).text


def test_a_report_on_nothing_at_all(suite: Config):
    empty = suite.model_copy(update={"results": suite.results / "empty"})
    report.run(empty, "key")
    assert "No layer has been measured yet." in Page((empty.results / "report.html").read_text()).text
    assert read_json(empty.results / "report.json")["figures"] == []
    assert len(read_json(empty.results / "report.json")["gaps"]) == 8 + 8 + 8 + 1
    assert sorted(path.name for path in (empty.results / "tables").iterdir()) == [
        "landscape.csv",
        "landscape.parquet",
        "layers.csv",
        "layers.parquet",
        "saes.csv",
        "saes.parquet",
        "spearman.csv",
        "training.csv",
        "training.parquet",
    ]


def test_the_page_says_where_it_comes_from_but_not_on_which_disk(complete: Config):
    import saelib

    html = (complete.results / "report.html").read_text()
    text = " ".join(Page(html).text.split())
    assert f"saelib {saelib.__version__}" in text
    assert "Python and packages Python 3." in text
    assert "code that trained torch" in text
    assert str(complete.results) not in html
