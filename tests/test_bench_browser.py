"""The report in a real browser: every figure renders, nothing comes from outside, and it can be read everywhere."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from support.raw_results import write_headline

from bench.report.write import write

DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(DRIVER is None, reason="no browser: apt-get install chromium chromium-driver")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_headline(folder)
    write(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


def open_page(browser: webdriver.Chrome, page: Path, width: int = 1600, scheme: str = "light") -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())


def ask(browser: webdriver.Chrome, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def test_every_figure_renders(browser: webdriver.Chrome, page: Path) -> None:
    open_page(browser, page)
    figures = ask(browser, "[...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.clientWidth])")
    assert 6 <= len(figures) <= 7
    for alt, complete, natural, shown in figures:
        assert complete, alt
        assert natural > 100, alt
        assert shown > 500, alt


def test_nothing_comes_from_outside(browser: webdriver.Chrome, page: Path) -> None:
    open_page(browser, page)
    loaded = ask(browser, "performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith("data:") for name in loaded)
    text = page.read_text()
    assert all(found.startswith("data:image/svg+xml;base64,") for found in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "<script" not in text


def test_the_page_opens_with_the_answer(browser: webdriver.Chrome, page: Path) -> None:
    open_page(browser, page)
    answer = ask(browser, "document.querySelector('.answer').innerText")
    assert re.match(r"4096 regions: early close [\d.]+ ms, unregister [\d.]+ ms: [\d.]+ times, 95 % ", answer)
    top = ask(browser, "document.querySelector('.answer').getBoundingClientRect().bottom")
    assert top < 400  # of the 900 pixels that are seen first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_can_be_read(browser: webdriver.Chrome, page: Path, width: int, scheme: str) -> None:
    open_page(browser, page, width, scheme)
    assert ask(browser, "window.innerWidth") == width
    assert ask(browser, "document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
    size = ask(browser, "parseFloat(getComputedStyle(document.body).fontSize)")
    assert size >= 14
    text, back = (
        _luminance(ask(browser, f"getComputedStyle(document.body).{name}")) for name in ("color", "backgroundColor")
    )
    assert (back < text) == (scheme == "dark")
    assert (max(text, back) + 0.05) / (min(text, back) + 0.05) > 7  # WCAG 2.1, AAA
    shown = ask(browser, "[...document.images].map(i => i.clientWidth)")
    assert all(each >= 600 for each in shown)  # of figures of 8 inches, whose text has 9 points at least
    figures = ask(browser, "[...document.images].map(i => getComputedStyle(i).backgroundColor)")
    assert all(_luminance(colour) > 0.9 for colour in figures)  # their text is dark


def _luminance(colour: str) -> float:
    """Relative, of "rgb(r, g, b)" (WCAG 2.1)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
