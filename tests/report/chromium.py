"""A real browser for the tests of the page: opened from disk, with its log and its requests."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that keeps a log of messages and requests."""
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


def open_page(browser: Any, path: Path, at: str = "") -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.resolve().as_uri() + at)
    drawn = "return document.documentElement.dataset.drawn === 'yes'"
    until(browser, lambda window: window.execute_script(drawn))


def until(browser: Any, condition: Callable[[Any], T]) -> T:
    """Waits until a condition on the browser holds, and returns its value."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 60).until(condition)


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
