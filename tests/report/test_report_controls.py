"""What a reader can do with the page, in a real browser: filter, search, open cards, choose curves, download."""

import json
from typing import Any

import polars as pl
import pytest

from saelib.config import Config
from saelib.files.sealed import read_json, write_json
from saelib.init_death.result import load_result
from saelib.stats import load_stats
from tests.report.chromium import choose, marks, open_page, shown_rows, until

pytestmark = pytest.mark.browser


def lead(browser: Any) -> str:
    return browser.execute_script("return document.querySelector('.lead').innerText")


def search(browser: Any, text: str) -> None:
    script = "const f = document.getElementById('filter'); f.search.value = arguments[0];"
    browser.execute_script(script + "f.dispatchEvent(new Event('input'))", text)


def shown(browser: Any, selector: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) => e.innerText)"
    )
    return browser.execute_script(script, selector)


def test_the_lead_and_the_correlations_follow_the_choice_of_a_model(page: Any, complete: Config):
    layers = pl.read_parquet(complete.results / "tables" / "layers.parquet").filter(model="antiberty")
    rows = pl.read_csv(complete.results / "tables" / "spearman.csv")
    (expected,) = rows.filter(scope="antiberty", by="model", x="gamma_unit", y="dead_total").to_dicts()
    assert "all layers, the rank" in shown(page, "p[data-by]")[0]
    script = "const s = document.querySelector('#filter select'); s.value = 'antiberty';"
    page.execute_script(script + "s.dispatchEvent(new Event('input', {bubbles: true}))")
    raw = layers.filter(recommendation="raw").height
    assert lead(page).startswith(f"Of 8 measured layers (antiberty), {raw} can be used as they are")
    (agreement,) = shown(page, "p[data-by]")
    assert agreement.startswith("Over all layers of antiberty")
    assert f"with all dead is {expected['rho']:.2f}" in agreement
    assert {row[0] for row in shown_rows(page)} == {"antiberty"}
    until(page, lambda window: marks(window, "finding") == 16)


def test_a_domain_gives_up_the_model_of_another(page: Any):
    script = "const s = document.querySelector('#filter select'); s.value = 'antiberty';"
    page.execute_script(script + "s.dispatchEvent(new Event('input', {bubbles: true}))")
    choose(page, "vision")
    assert {row[0] for row in shown_rows(page)} == {"dinov2-small"}
    page.execute_script("document.querySelector('#filter button[type=reset]').click()")
    until(page, lambda window: len(shown_rows(window)) == 74)


def test_a_search_finds_layers_and_says_what_it_leaves_as_it_was(page: Any):
    search(page, "  SPLICEAI layer 16 ")
    assert [row[:2] for row in shown_rows(page)] == [["spliceai-10k", "16"]]
    assert lead(page).startswith("Of 1 measured layer (“SPLICEAI layer 16”)")
    assert shown(page, "#not-searched") == ["A search changes the points, but not these sentences."]
    search(page, "there is no such layer")
    assert shown_rows(page) == []
    assert lead(page).startswith("Of 0 measured layers")


def test_layers_that_stay_dead_are_named_and_filtered(browser: Any, suite: Config, render: Any):
    death = suite.init_death_path("minilm-l6", 4)
    found = read_json(death)
    for name, mean in {"raw": 0.5, "center_median": 0.2, "pca": 0.123}.items():
        found["preprocessings"][name]["dead_total"] = {"mean": mean, "sd": 0.0, "per_seed": [mean]}
    write_json(death, found)
    path = suite.results / "page.html"
    path.write_text(render(suite))
    open_page(browser, path)
    assert "on all of them but 1, listed below." in lead(browser)
    assert shown(browser, ".exceptions li") == ["minilm-l6 layer 4 keeps 12.3% dead (whiten; as it is, 50.0%)"]
    choose(browser, "genomic")
    assert shown(browser, ".exceptions li") == []
    assert lead(browser).endswith("are dead on all of them.")


def test_missing_values_stay_at_the_end_in_both_directions(browser: Any, suite: Config, render: Any):
    suite.stats_path("minilm-l6", 4).unlink()
    path = suite.results / "page.html"
    path.write_text(render(suite))
    open_page(browser, path)
    click = "[...document.querySelectorAll('#layers th button')].find((b) => b.innerText === 'γ').click()"
    for descending in (False, True):
        browser.execute_script(click)
        *gammas, missing = [row[4] for row in shown_rows(browser)]
        assert missing == "–"
        assert gammas == sorted(gammas, key=float, reverse=descending)


def test_the_keyboard_opens_a_card_with_the_reason_and_closes_it(page: Any, complete: Config):
    from selenium.webdriver.common.keys import Keys

    table = pl.read_parquet(complete.results / "tables" / "layers.parquet")
    row = table.filter(model="spliceai-10k", layer=16).to_dicts()[0]
    link = page.find_element("css selector", "a.advice[href='#layer/spliceai-10k/16']")
    link.send_keys(Keys.ENTER)
    (text,) = until(page, lambda window: shown(window, "dialog[open]"))
    assert "spliceai-10k, layer 16" in text
    assert row["recommendation_reason"] in text
    assert f"{100 * row['dead_total']:.1f}%" in text
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(page, lambda window: not shown(window, "dialog[open]"))
    assert page.current_url.endswith("#")


def test_a_card_shows_what_carries_the_mean_and_death_for_other_sizes(page: Any, complete: Config):
    found = load_stats(complete.stats_path("spliceai-10k", 16))
    landscape = load_result(complete.init_death_path("spliceai-10k", 16)).landscape
    assert landscape
    page.execute_script("location.hash = '#layer/spliceai-10k/16'")
    until(page, lambda window: shown(window, "dialog[open]"))
    script = (
        "return [...card.querySelectorAll('.wide')].map((t) => [...t.querySelectorAll('td')].map((c) => c.textContent))"
    )
    cells = page.execute_script(script)
    carriers, trained, raw, centered, whitened = cells
    assert [int(index) for index in carriers[::4]] == [one.index for one in found.outlier_dimensions]
    assert trained
    width = len(landscape.k) + 1
    assert [text.replace(",", "") for text in raw[::width]] == [str(size) for size in landscape.d_sae]
    place = (landscape.d_sae.index(2048), landscape.k.index(64))
    for table, name in ((raw, "raw"), (centered, "center_median"), (whitened, "pca")):
        dead = landscape.dead_total[name][place[0]][place[1]]
        assert dead is not None
        shown_there = float(table[place[0] * width + place[1] + 1].strip("%<"))
        assert shown_there == pytest.approx(100 * dead, abs=0.051)


def test_a_card_has_an_address_and_links_to_its_model_and_files(page: Any, complete: Config):
    page.execute_script("location.hash = '#layer/minilm-l6/6'")
    until(page, lambda window: shown(window, "dialog[open]"))
    links = page.execute_script("return [...card.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    assert links == ["#model/minilm-l6", "stats/minilm-l6/layer_6.json", "init_death/minilm-l6/layer_6.json"]
    assert all((complete.results / link).exists() for link in links[1:])
    page.execute_script("location.hash = '#model/minilm-l6'")
    until(page, lambda window: "Made-up activations." in shown(window, "dialog[open]")[0])
    page.execute_script("location.hash = '#layer/nothing/1'")
    until(page, lambda window: not shown(window, "dialog[open]"))


def test_a_mark_says_what_the_recommendation_leaves_and_opens_the_card(page: Any, complete: Config):
    table = pl.read_parquet(complete.results / "tables" / "layers.parquet")
    row = table.filter(model="spliceai-10k", layer=16).to_dicts()[0]
    assert row["recommendation"] == "center_median"
    labels = page.execute_script(
        "return [...document.querySelectorAll('#finding path[aria-label*=spliceai-10k][aria-label*=\"layer: 16;\"]')]"
        ".map((mark) => mark.getAttribute('aria-label'))"
    )
    rates = {"as it is": "dead_total", "with the recommended preprocessing": "dead_total_center_median"}
    assert len(labels) == len(rates)
    for label, (state, column) in zip(labels, rates.items(), strict=True):
        assert f"state: {state}; model: spliceai-10k; layer: 16; site: residual; dead: {row[column]:.2%}; " in label
        assert "recommendation: center" in label
    page.execute_script(
        "document.querySelector('#finding path[aria-label*=spliceai-10k][aria-label*=\"layer: 16;\"]')"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    until(page, lambda window: shown(window, "dialog[open]"))
    assert page.current_url.endswith("#layer/spliceai-10k/16")


def test_a_broken_address_opens_nothing_and_the_page_is_drawn(page: Any, complete: Config):
    page.get("about:blank")
    open_page(page, complete.results / "report.html", "#layer/%E0%A4/1")
    assert [entry["message"] for entry in page.get_log("browser")] == []
    assert shown(page, "dialog[open]") == []


def test_curves_are_those_of_the_chosen_layer(page: Any):
    script = "return [...new Set(rowsOf('training').map((row) => row.model))]"
    assert page.execute_script(script) == ["smollm2-135m"]
    select = "const s = document.getElementById('trained-layer'); s.selectedIndex = 3;"
    page.execute_script(select + "s.dispatchEvent(new Event('change'))")
    assert page.execute_script(script) == ["antiberty"]
    choose(page, "vision")
    assert page.execute_script(script) == ["dinov2-small"]


def saved(browser: Any, selector: str) -> tuple[str, str]:
    """Clicks a button, and returns the name and the text of the file that it gives."""
    script = """
        const done = arguments[1];
        HTMLAnchorElement.prototype.click = function () {
            fetchText(this).then((text) => done([this.download, text]));
        };
        const make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { window.saved = blob; return make(blob); };
        const fetchText = () => window.saved.text();
        const button = document.querySelector(arguments[0]);
        button.dispatchEvent(new MouseEvent("click"));
    """
    name, text = browser.execute_async_script(script, selector)
    return name, text


def test_rows_and_pictures_can_be_downloaded(page: Any, complete: Config):
    table = pl.read_parquet(complete.results / "tables" / "layers.parquet").drop("key")
    choose(page, "protein")
    name, text = saved(page, ".downloads[data-rows=layers] [data-as=csv]")
    assert name == "layers.csv"
    assert pl.read_csv(text.encode()).equals(table.filter(domain="protein"))
    name, text = saved(page, ".downloads[data-chart=by-layer] [data-as=json]")
    assert (name, json.loads(text)) == ("by-layer.json", table.filter(domain="protein").to_dicts())
    name, text = saved(page, ".downloads[data-chart=training] [data-as=svg]")
    assert name == "training.svg"
    assert text.startswith("<svg")
    assert 'fill="white"' in text
    name, text = saved(page, ".downloads[data-chart=death-total] [data-as=png]")
    assert name == "death-total.png"
    assert text[1:4] == "PNG"
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_evil_names_open_cards_and_leave_quoted_in_csv(browser: Any, poisoned: Config, render: Any):
    path = poisoned.results / "poisoned.html"
    path.write_text(render(poisoned))
    open_page(browser, path)
    evil = next(name for name in poisoned.models if name.startswith("model"))
    browser.execute_script("location.hash = layerHash({model: arguments[0], layer: 1, site: 'residual'})", evil)
    until(browser, lambda window: shown(window, "dialog[open]"))
    title = browser.execute_script("return document.getElementById('card-title').textContent")
    assert title == f"{evil}, layer 1"
    assert browser.execute_script("return document.querySelectorAll('dialog script, dialog img').length") == 0
    csv = browser.execute_script("return toCsv(rows.layers)")
    assert set(pl.read_csv(csv.encode())["model"]) == {"minilm-l6", evil}
