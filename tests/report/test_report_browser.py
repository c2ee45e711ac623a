"""The page works in a real browser, opened from disk: drawn, filtered, sorted, without network access."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saelib.config import Config

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
]
CHARTS = ("death-relu", "death-total", "by-layer", "trained")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.get("about:blank")
    yield window
    window.quit()


@pytest.fixture
def page(browser: Any, complete: Config) -> Any:
    open_page(browser, complete.results / "report.html")
    return browser


def open_page(browser: Any, path: Path) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.resolve().as_uri())
    drawn = "return document.documentElement.dataset.drawn === 'yes'"
    WebDriverWait(browser, 60).until(lambda window: window.execute_script(drawn))


def requests(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("chrome:", "data:"))]


def shown_rows(browser: Any, table: int = 0) -> list[list[str]]:
    script = """
        const rows = [...document.querySelectorAll("table")[arguments[0]].tBodies[0].rows];
        return rows.filter((row) => row.offsetParent).map((row) => [...row.cells].map((cell) => cell.innerText));
    """
    return browser.execute_script(script, table)


def choose(browser: Any, domain: str) -> None:
    browser.execute_script(f"document.querySelector('#filter input[value=\"{domain}\"]').closest('label').click()")


def marks(browser: Any, chart: str) -> int:
    return browser.execute_script(f"return document.querySelectorAll('#{chart} .mark-symbol.role-mark path').length")


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
    from selenium.webdriver.support.wait import WebDriverWait

    assert len(shown_rows(page)) == 74
    choose(page, "genomic")
    assert {row[2] for row in shown_rows(page)} == {"genomic"}
    assert len(shown_rows(page)) == 18
    assert len(shown_rows(page, 1)) == 8
    WebDriverWait(page, 20).until(lambda window: marks(window, "death-total") == 18)
    counts = page.execute_script("return [...document.querySelectorAll('[data-counts]')].map((e) => e.innerText)")
    assert counts == ["18", "8"]
    choose(page, "")
    assert len(shown_rows(page)) == 74
    WebDriverWait(page, 20).until(lambda window: marks(window, "death-total") == 74)


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
    from selenium.webdriver.support.wait import WebDriverWait

    point = page.find_elements(By.CSS_SELECTOR, "#death-total .mark-symbol.role-mark path")[-1]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(page).move_to_element(point).perform()
    WebDriverWait(page, 20).until(lambda window: window.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))
    text = page.find_element(By.ID, "vg-tooltip-element").text
    for word in ("model", "layer", "γ", "all dead", "recommendation"):
        assert word in text


@pytest.mark.parametrize("width", [1200, 420])
def test_nothing_sticks_out_sideways(page: Any, width: int):
    page.set_window_size(width, 1000)
    wider = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.set_window_size(1200, 1000)
    assert wider == 0


def test_text_that_tries_to_be_code_is_shown_as_text(browser: Any, poisoned: Config, render: Any):
    path = poisoned.results / "poisoned.html"
    path.write_text(render(poisoned))
    open_page(browser, path)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert requests(browser) == [path.resolve().as_uri()]
    assert len(shown_rows(browser)) == 8
    assert "<script>alert(1)</script>" in browser.execute_script("return document.body.innerText")
    assert marks(browser, "death-total") == 7  # the layer whose statistics are broken has no γ
