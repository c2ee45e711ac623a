"""The pages of latents work in a real browser, opened from disk: with mouse, keyboard and phone, and hostile data."""

from pathlib import Path
from typing import Any

import pytest

from tests.features.conftest import EVIL, LATENTS, texts
from tests.report.chromium import open_page, requests, until

pytestmark = pytest.mark.browser

KINDS = ("text", "sequence", "image", "row")


def read(browser: Any, folder: Path, latent: int) -> None:
    """Opens the page at a latent and waits until its examples are there."""
    open_page(browser, folder / "index.html", f"#{latent}")
    reads(browser, latent)


def reads(browser: Any, latent: int) -> None:
    until(browser, lambda window: script(window, "return document.documentElement.dataset.read") == str(latent))


def script(browser: Any, code: str, *arguments: object) -> Any:
    return browser.execute_script(code, *arguments)


def rows(browser: Any) -> list[int]:
    """The latents at the top of the list."""
    return script(browser, "return [...document.querySelectorAll('.row')].map((row) => Number(row.dataset.latent))")


def text(browser: Any, selector: str) -> str:
    return script(browser, "return document.querySelector(arguments[0]).innerText", selector)


def type_keys(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(browser)
    for key in keys:
        actions = actions.send_keys(key)
    actions.perform()


def resize(browser: Any, width: int, height: int = 900) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(autouse=True)
def desktop(browser: Any) -> None:
    resize(browser, 1300)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_data_is_shown_as_text_and_nothing_leaves_the_disk(browser: Any, pages: Any, kind: str):
    read(browser, pages(kind), 3)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    asked = requests(browser)
    assert all(url.startswith(f"{pages(kind).resolve().as_uri()}/") for url in asked)
    assert script(browser, "return document.scripts.length") == 2
    assert script(browser, "return document.querySelectorAll('[onerror], [onmouseover], img[src=x]').length") == 0
    assert "</script><script>alert(1)</script>" in text(browser, "#latent")
    assert EVIL.split()[0] in text(browser, "h1")


def test_only_what_is_looked_at_is_loaded(browser: Any, pages: Any):
    read(browser, pages("text"), 3)
    names = [url.rpartition("/data/")[2] for url in requests(browser) if "/data/" in url]
    assert names[0] == "list.js"
    assert [name for name in names if name.startswith("latents")] == ["latents/0.js"]
    script(browser, "location.hash = '#66'")
    reads(browser, 66)
    assert any(url.endswith("/data/latents/1.js") for url in requests(browser))


def test_tokens_are_shaded_and_make_up_the_text(browser: Any, pages: Any):
    read(browser, pages("text"), 1)  # it fires on every token
    shown = script(browser, "return [...document.querySelectorAll('.passage')].map((one) => one.textContent)")
    assert len(shown) == 12
    for passage in shown:
        pieces = passage.removeprefix("⟨special token⟩").split("…")
        assert any(all(piece.strip() in whole for piece in pieces) for whole, _ in texts())
    assert script(browser, "return document.querySelectorAll('.passage .level').length") > 50
    peaks = "return [...document.querySelectorAll('.example')].map((one) => one.querySelectorAll('.peak').length)"
    assert set(script(browser, peaks)) == {1}
    before = script(browser, "return document.querySelector('.passage').textContent.length")
    script(browser, "document.querySelector('.example button').click()")
    assert script(browser, "return document.querySelector('.passage').textContent.length") > before


def test_bytes_of_one_sign_share_it(browser: Any, pages: Any):
    read(browser, pages("text"), 1)
    passages = script(browser, "return [...document.querySelectorAll('.passage')].map((one) => one.textContent)")
    emoji = [passage for passage in passages if "👩‍🚀" in passage]
    assert emoji == ["⟨special token⟩a 👩‍🚀 b"] or not emoji


def test_annotations_run_along_the_sequence(browser: Any, pages: Any):
    read(browser, pages("sequence"), 3)  # its peak is the first residue of the first sequence
    lane = "const bar = document.querySelector('.lane span'); return [bar.innerText, bar.style.left, bar.style.width]"
    name, left, width = script(browser, lane)
    assert name.startswith("Helix </script>")
    assert (left, width) == ("2ch", "28ch")
    letters = script(
        browser, "return [...document.querySelectorAll('.letters > span:not(.place)')].map((s) => s.innerText)"
    )
    assert all(len(letter) == 1 for letter in letters if not letter.startswith(("Helix", "Site")))


def test_pictures_are_darkened_where_the_latent_is_silent(browser: Any, pages: Any):
    read(browser, pages("image"), 3)
    loaded = "return [...document.images].every((image) => image.complete && image.naturalWidth === 42)"
    until(browser, lambda window: script(window, loaded))
    patches = "svg.querySelectorAll('[fill-opacity]').length"
    dark = f"return [...document.querySelectorAll('.frame svg')].map((svg) => {patches})"
    assert set(script(browser, dark)) == {6}  # the seventh token stands for the whole picture
    assert "whole picture (special token): 9.00" in text(browser, "#latent")
    thumbs = "return [...document.querySelectorAll('.row .thumb')].every((one) => one.style.backgroundImage)"
    assert script(browser, thumbs)


def test_the_list_is_searched_filtered_and_sorted(browser: Any, pages: Any):
    open_page(browser, pages("text") / "index.html")
    assert text(browser, "#count") == f"{LATENTS} of {LATENTS}"
    script(browser, "document.querySelector('[value=dead]').click()")
    assert rows(browser) == [0]
    script(browser, "document.querySelector('[value=all]').click(); document.querySelector('[name=concept]').click()")
    assert text(browser, "#count") == f"23 of {LATENTS}"
    script(browser, "document.querySelector('[data-sort=concept]').click()")
    assert rows(browser)[:3] == [69, 66, 63]
    script(browser, "document.querySelector('[data-sort=concept]').click()")
    assert rows(browser)[:3] == [3, 6, 9]  # 0 has an F1 of 0
    script(
        browser,
        "document.querySelector('[name=concept]').click(); document.querySelector('[data-sort=density]').click()",
    )
    assert rows(browser)[0] == 1
    type_keys(browser, "/", "42")
    assert 42 in rows(browser)
    assert script(browser, "return document.activeElement.name") == "words"


def test_latents_without_a_value_come_last_in_both_directions(browser: Any, pages: Any):
    open_page(browser, pages("text") / "index.html")
    for _ in range(2):
        script(browser, "document.querySelector('[data-sort=concept]').click()")
        found = script(browser, "return shown.map((n) => table.score[n] === null)")
        assert found == sorted(found)


def test_the_keyboard_reaches_everything(browser: Any, pages: Any):
    from selenium.webdriver.common.keys import Keys

    open_page(browser, pages("sequence") / "index.html")
    reads(browser, script(browser, "return table.state.indexOf('alive')"))  # it opens at the first that is alive
    script(browser, "document.getElementById('list').focus()")
    type_keys(browser, Keys.END)
    reads(browser, LATENTS - 1)
    type_keys(browser, Keys.ARROW_UP, Keys.ARROW_UP)
    reads(browser, LATENTS - 3)
    active = script(browser, "return document.getElementById('list').getAttribute('aria-activedescendant')")
    assert script(browser, "return document.getElementById(arguments[0]).ariaSelected", active) == "true"
    type_keys(browser, Keys.ENTER)
    assert script(browser, "return document.activeElement.id") == "latent"
    type_keys(browser, Keys.ESCAPE)
    assert script(browser, "return document.activeElement.id") == "list"
    type_keys(browser, "/", "5", Keys.ENTER)
    assert script(browser, "return location.hash").startswith("#")


def test_pointing_at_the_map_chooses_a_latent(browser: Any, pages: Any):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    open_page(browser, pages("text") / "index.html")
    canvas = browser.find_element(By.ID, "map")
    x, y = script(browser, "const [x, y] = spot(20); return [x - map.clientWidth / 2, y - map.clientHeight / 2]")
    ActionChains(browser).move_to_element_with_offset(canvas, round(x), round(y)).click().perform()
    chosen = script(browser, "return current")
    place = "const [a, b] = [spot(20), spot(arguments[0])]; return Math.hypot(a[0] - b[0], a[1] - b[1])"
    assert script(browser, place, chosen) < 2
    assert text(browser, "#map-name").startswith(f"{chosen}: ")
    script(browser, "document.querySelector('[data-zoom=\"1.5\"]').click()")
    assert script(browser, "return view.zoom") == 1.5
    colors = script(browser, "return [...document.querySelectorAll('#map-color option')].map((one) => one.value)")
    for column in colors:
        script(browser, "color.value = arguments[0]; color.dispatchEvent(new Event('change'))", column)
        assert text(browser, "#map-legend")
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_on_a_phone_the_latent_covers_the_list_until_it_is_closed(browser: Any, pages: Any):
    resize(browser, 390, 844)
    open_page(browser, pages("sequence") / "index.html")
    wider = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert script(browser, wider) == 0
    visible = "return document.getElementById('latent').getClientRects().length > 0"
    assert not script(browser, visible)
    script(browser, "document.querySelector('.row').click()")
    assert script(browser, visible)
    assert script(browser, wider) == 0
    script(browser, "history.back()")
    until(browser, lambda window: not script(window, visible))
    script(browser, "document.querySelector('.row').click(); document.getElementById('close').click()")
    assert not script(browser, visible)


def test_a_missing_script_is_named(browser: Any, pages: Any, tmp_path: Path):
    import shutil

    folder = shutil.copytree(pages("row"), tmp_path / "copy")
    shutil.rmtree(folder / "data" / "latents")
    open_page(browser, folder / "index.html", "#5")
    reads(browser, 5)
    assert "data/latents/0.js could not be read" in text(browser, "#latent")
