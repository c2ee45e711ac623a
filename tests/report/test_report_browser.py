"""The page works in a real browser, opened from disk: drawn, filtered, sorted, without network access."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from saelib.config import Config
from tests.report.chromium import choose, marks, open_page, requests, shown_rows, until

pytestmark = pytest.mark.browser

CHARTS = ("finding", "death-relu", "death-total", "by-layer", "trained", "training")


def test_it_is_drawn_without_errors_and_without_the_network(page: Any, complete: Config):
    assert [entry["message"] for entry in page.get_log("browser")] == []
    assert requests(page) == [(complete.results / "report.html").resolve().as_uri()]
    for chart in CHARTS:
        size = page.execute_script(
            f"const r = document.querySelector('#{chart} svg').getBoundingClientRect(); return r"
        )
        assert size["width"] > 300
        assert size["height"] > 100
    assert marks(page, "death-total") == marks(page, "death-relu") == 74


def test_choosing_a_domain_filters_tables_and_charts(page: Any):
    assert len(shown_rows(page)) == 74
    choose(page, "genomic")
    assert {row[2] for row in shown_rows(page)} == {"genomic"}
    assert len(shown_rows(page)) == 18
    assert len(shown_rows(page, 1)) == 8
    until(page, lambda window: marks(window, "death-total") == 18)
    counts = page.execute_script("return [...document.querySelectorAll('[data-counts]')].map((e) => e.innerText)")
    assert counts == ["18", "8"]
    choose(page, "")
    assert len(shown_rows(page)) == 74
    until(page, lambda window: marks(window, "death-total") == 74)


def test_headings_sort_numbers_as_numbers_in_both_directions(page: Any):
    click = "[...document.querySelectorAll('th button')].find((b) => b.innerText === arguments[0]).click()"
    page.execute_script(click, "layer")
    layers = [int(row[1]) for row in shown_rows(page)]
    assert layers == sorted(layers)
    page.execute_script(click, "layer")
    assert [int(row[1]) for row in shown_rows(page)] == layers[::-1]
    page.execute_script(click, "model")
    models = [row[0] for row in shown_rows(page)]
    assert models == sorted(models)
    sorted_headings = page.execute_script(
        "return [...document.querySelectorAll('th[aria-sort]')].map(h => h.innerText)"
    )
    assert len(sorted_headings) == 1
    assert sorted_headings[0].startswith("model")


def test_pointing_at_a_layer_shows_its_numbers(page: Any):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    point = page.find_elements(By.CSS_SELECTOR, "#death-total .mark-symbol.role-mark path")[-1]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(page).move_to_element(point).perform()
    until(page, lambda window: window.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))
    text = page.find_element(By.ID, "vg-tooltip-element").text
    for word in ("model", "layer", "γ", "all dead", "recommendation"):
        assert word in text


@pytest.mark.parametrize("width", [1366, 390])
def test_nothing_sticks_out_sideways(page: Any, width: int):
    resize(page, width)
    wider = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert page.execute_script(wider) == 0
    cut = (
        "return [...document.querySelectorAll('.chart')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.id)"
    )
    assert page.execute_script(cut) == []
    if width == 1366:
        tables = "return [...document.querySelectorAll('.wide')].map((e) => e.scrollWidth - e.clientWidth)"
        assert page.execute_script(tables) == [0] * 4
    resize(page, 1200)


def resize(browser: Any, width: int) -> None:
    """Sets the page's width, and waits until the charts have been drawn for it."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, Path(unquote(urlsplit(browser.current_url).path)))


def test_text_that_tries_to_be_code_is_shown_as_text(browser: Any, poisoned: Config, render: Any):
    path = poisoned.results / "poisoned.html"
    path.write_text(render(poisoned))
    open_page(browser, path)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert requests(browser) == [path.resolve().as_uri()]
    assert len(shown_rows(browser)) == 8
    assert "<script>alert(1)</script>" in browser.execute_script("return document.body.innerText")
    assert marks(browser, "death-total") == 7  # the layer whose statistics are broken has no γ
