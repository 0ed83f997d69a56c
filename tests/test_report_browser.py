"""The report in a real browser: drawn, quiet, clickable, accessible, harmless. Needs Chromium."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import frostline
import studies
from frostline.reports.live_page import server
from frostline.reports.study_reader import read

pytestmark = pytest.mark.system
WIDE, NARROW = (1280, 900), (360, 740)
BINARIES = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, the system's own."""
    from selenium import webdriver

    binary = next((path for name in BINARIES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    assert binary, "apt-get install chromium"
    assert driver, "apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_script_timeout(WAIT_S)
    yield chrome
    chrome.quit()


def wait(until: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        result = until()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError(f"waited {WAIT_S:g} s for {what}")


def shown(browser: Any, study: Path, size: tuple[int, int] = WIDE, *, dark: bool = False) -> Any:
    """Open a study's report and wait until it is drawn."""
    report = frostline.report(study)
    assert report.notes == ()
    view(browser, size, dark)
    browser.get(report.path.resolve().as_uri())
    drawn(browser)
    return browser


def view(browser: Any, size: tuple[int, int], dark: bool) -> None:
    width, height = size
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def drawn(browser: Any) -> None:
    wait(lambda: browser.execute_script("return document.documentElement.dataset.drawn"), "charts")


def won_by_the_probe(place: Path) -> Path:
    """A comparison whose winner has no epochs to draw."""
    study = studies.compared(place)
    file = next(study.glob("comparisons/*/comparison.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "winner": "linear_probe"}))
    return study


def test_every_chart_has_marks_and_the_console_is_silent(browser: Any, tmp_path: Path) -> None:
    for name, study in {
        "fitted": studies.fitted(tmp_path / "a"),
        "trained": studies.trained(tmp_path / "b"),
        "unfinished": studies.compared(tmp_path / "c", finished=False),
        "evil": studies.fitted(tmp_path / "d", studies.EVIL),
        "solved": won_by_the_probe(tmp_path / "e"),
    }.items():
        shown(browser, study)
        marks = browser.execute_script(
            "return [...document.querySelectorAll('[data-chart]')].map(place => [place.dataset.chart, "
            "place.querySelectorAll('svg .mark-symbol path, svg .mark-rect path, svg .mark-line "
            "path').length])"
        )
        assert len(marks) >= 3
        assert [key for key, count in marks if not count] == [], name
        assert browser.get_log("browser") == [], name
        assert browser.title != "owned"
        assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_clicks_pick_a_row_and_filters_filter(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    shown(browser, studies.fitted(tmp_path / "study"))
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")

    def looks() -> list[str]:
        return [
            e.get_attribute("id") for e in browser.find_elements(By.CLASS_NAME, "look") if e.is_displayed()
        ]

    first = looks()
    assert len(first) == 1
    epochs = len(browser.find_elements(By.CSS_SELECTOR, "#curve-loss tbody tr"))
    button = browser.find_element(By.XPATH, "//button[@data-pick][.='top_k(1)']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert looks() == ["look-" + button.get_attribute("data-pick")] != first
    assert button.get_attribute("aria-pressed") == "true"
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#curve-loss tbody tr")) != epochs, "its curve")
    mark = browser.find_elements(By.CSS_SELECTOR, "#tried-scatter .mark-symbol path")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    picked = looks()
    for mark in browser.find_elements(By.CSS_SELECTOR, "#tried-scatter .mark-symbol path"):
        ActionChains(browser).move_to_element(mark).click().perform()
        if looks() != picked:
            break
    assert looks() != picked
    tip = browser.find_element(By.ID, "tip")
    assert "strategy" in tip.text

    cards = "#mistakes .look-at"
    n_cards = len(browser.find_elements(By.CSS_SELECTOR, cards))
    browser.execute_script(
        "const by = document.getElementById('by-true'); by.value = 'dog'; by.dispatchEvent(new "
        "Event('change'))"
    )
    left = [card for card in browser.find_elements(By.CSS_SELECTOR, cards) if card.is_displayed()]
    assert 0 < len(left) < n_cards
    assert {card.get_attribute("data-true") for card in left} == {"dog"}
    assert browser.find_element(By.ID, "left").text == f"{len(left)} of {n_cards} shown"
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_light_and_dark_and_no_sideways_scrolling(
    browser: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    study, colours = studies.fitted(tmp_path / "study", studies.EVIL), []
    for dark in (False, True):
        shown(browser, study, size, dark=dark)
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert len(set(colours)) == 2
    browser.execute_script("document.getElementById('theme').click()")
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == colours[0]


def test_what_was_tried_is_whole_on_a_phone(browser: Any, tmp_path: Path) -> None:
    """At 390 px nothing of the table is cut off: its rows are stacked, each figure with its name."""
    study = studies.fitted(tmp_path / "study")
    shown(browser, study, (390, 844))
    wide = browser.execute_script(
        "const place = document.querySelector('#tried > .scroll');"
        "return place.scrollWidth - place.clientWidth"
    )
    assert wide <= 0
    name = "return getComputedStyle(document.querySelector('.picks td.n'), '::before').content"
    assert "accuracy" in browser.execute_script(name)
    beyond = (
        "return [...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll') && "
        "!one.closest('.unseen') && one.getBoundingClientRect().right > 391).length"
    )
    assert browser.execute_script(beyond) == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_axe_finds_nothing_serious(browser: Any, size: tuple[int, int], dark: bool, tmp_path: Path) -> None:
    """axe-core with every details element open, so that hidden tables are looked at, too."""
    shown(browser, studies.fitted(tmp_path / "study"), size, dark=dark)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    browser.execute_script(axe())
    output = browser.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run(document).then(r => done(JSON.stringify(r)))"
    )
    result = json.loads(output)
    assert len(result["passes"]) > 20
    violations = {
        violation["id"]: [node["html"][:160] for node in violation["nodes"]][:3]
        for violation in result["violations"]
        if violation["impact"] in ("serious", "critical")
    }
    assert violations == {}


def axe() -> str:
    """The source of axe-core, from the package that carries it."""
    files = metadata.files("axe-playwright-python") or []
    place = next(file for file in files if file.name == "axe.min.js")
    return Path(str(place.locate())).read_text(encoding="utf-8")


def test_a_watched_page_follows_the_study(browser: Any, tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study", finished=False)
    served = server(study)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        view(browser, WIDE, False)
        browser.get(f"http://127.0.0.1:{served.server_address[1]}/")
        drawn(browser)
        live = "return (document.getElementById('live') || {}).textContent"
        assert "1 run unfinished" in browser.execute_script(live)
        data = read(study).data
        assert data is not None
        studies.write_run(study / "splits" / "fold2", "full", data, keep="last", val=data.samples[:9])
        wait(lambda: browser.execute_script(live) == "Watching.", "the page to follow")
        messages = [m for m in browser.get_log("browser") if "favicon" not in m["message"]]
        assert messages == []
    finally:
        served.shutdown()
        served.server_close()


def test_it_prints(browser: Any, tmp_path: Path) -> None:
    shown(browser, studies.fitted(tmp_path / "study"))
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(printed) > 50_000
