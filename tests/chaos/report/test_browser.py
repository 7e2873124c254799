"""The page as a browser shows it: it is opened in a real, headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from chaos.report.page import write_report
from chaos.verdict import Judged
from tests.chaos.report import samples

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE: ViewportSize = {"width": 1200, "height": 900}
NARROW: ViewportSize = {"width": 390, "height": 844}

MAKERS = {
    "violated": samples.rich,
    "valid": lambda: samples.rich(violated=False),
    "bare": samples.bare,
    "hostile": samples.hostile,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        if found is None and not Path(own).exists():
            pytest.skip("no Chromium is installed here (Debian: apt-get install chromium)")
        started = playwright.chromium.launch(executable_path=found or own)
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made: dict[str, Judged] = {name: make() for name, make in MAKERS.items()}
    return {name: write_report(each, folder / f"{name}.html") for name, each in made.items()}


def opened(browser: Browser, file: Path, size: ViewportSize, *, dark: bool = False) -> Page:
    """A page that has been read without a complaint, and without asking for anything."""
    view = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
    complaints: list[str] = []
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("dialog", lambda dialog: complaints.append(dialog.message))
    view.on("request", lambda request: complaints.append(request.url))
    view.goto(file.as_uri())
    view.wait_for_load_state("networkidle")
    complaints.remove(file.as_uri())
    assert complaints == []
    return view


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_complaint_no_request_and_no_sideways_scrolling(
    browser: Browser, files: dict[str, Path], name: str, size: ViewportSize
) -> None:
    view = opened(browser, files[name], size)
    assert view.evaluate("document.documentElement.scrollWidth") == size["width"]
    too_wide = view.evaluate(
        "width => [...document.querySelectorAll('body *')]"
        ".filter(e => !e.closest('.scroll, .skip') && e.getBoundingClientRect().right > width + 1)"
        ".map(e => e.outerHTML.slice(0, 80))",
        size["width"],
    )
    assert too_wide == []
    view.close()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_part_is_seen(browser: Browser, files: dict[str, Path], size: ViewportSize) -> None:
    view = opened(browser, files["violated"], size)
    assert "violated" in view.locator("#verdict").inner_text().lower()
    for part in ("timeline", "requests", "convergence", "ttft", "gauges"):
        plots = [each for each in view.locator(f"#{part} svg").all() if each.is_visible()]
        assert plots, part
        for plot in plots:
            box = plot.bounding_box()
            assert box is not None
            assert box["height"] > 8
    assert view.locator("#findings tbody tr").count() == 12
    assert view.locator("#faults table").first.locator("tbody tr").count() == 12
    view.close()


def test_labels_of_narrow_tables_fit_on_one_line(browser: Browser, files: dict[str, Path]) -> None:
    view = opened(browser, files["violated"], NARROW)
    wide = view.evaluate(
        """() => {
            const pen = document.createElement('canvas').getContext('2d');
            pen.font = getComputedStyle(document.querySelector('td')).font;
            return [...document.querySelectorAll('td[data-label]')]
                .filter(e => getComputedStyle(e, '::before').position === 'absolute')
                .map(e => [e.dataset.label, pen.measureText(e.dataset.label).width])
                .filter(([label, width]) => width > 108);
        }"""
    )
    assert wide == []
    view.close()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_text_of_plots_is_large_enough_to_read(
    browser: Browser, files: dict[str, Path], size: ViewportSize
) -> None:
    view = opened(browser, files["violated"], size)
    sizes = view.evaluate(
        "[...document.querySelectorAll('svg text')].filter(e => e.checkVisibility())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a)"
    )
    assert len(sizes) > 50
    assert min(sizes) >= 9.0
    view.close()


def test_labels_of_the_lanes_do_not_cover_each_other(
    browser: Browser, files: dict[str, Path]
) -> None:
    for size in (WIDE, NARROW):
        view = opened(browser, files["violated"], size)
        boxes = view.evaluate(
            "[...document.querySelectorAll('#timeline svg text')]"
            ".filter(e => e.checkVisibility()).map(e => [e.textContent, e.getBoundingClientRect()])"
        )
        for index, (one, a) in enumerate(boxes):
            for other, b in boxes[:index]:
                apart = (
                    a["right"] <= b["left"] or b["right"] <= a["left"]
                    or a["bottom"] <= b["top"] + 3 or b["bottom"] <= a["top"] + 3
                )  # fmt: skip
                assert apart, (size, one, other)
        view.close()


def test_it_is_read_with_a_keyboard_and_without_eyes(
    browser: Browser, files: dict[str, Path]
) -> None:
    view = opened(browser, files["violated"], NARROW)
    reached = []
    for _ in range(40):
        view.keyboard.press("Tab")
        reached.append(
            view.evaluate("document.activeElement.className + document.activeElement.tagName")
        )
    assert reached[0] == "skipA"
    assert "scrollDIV" in reached
    assert reached.count("SUMMARY") >= 2
    view.locator(".scroll").focus()
    view.keyboard.press("ArrowRight")
    moved = "document.querySelector('.scroll').scrollLeft > 0"
    tries = 0
    while not view.evaluate(moved) and tries < 50:  # the page's policy forbids a waiting script
        view.wait_for_timeout(100)
        tries += 1
    assert view.evaluate(moved)
    plots = view.locator("svg[role=img]:not(.swatch)").all()
    alts = [each.get_attribute("aria-label") or "" for each in plots]
    assert min(map(len, alts)) > 20
    view.close()


def test_dark_and_print_have_contrast(browser: Browser, files: dict[str, Path]) -> None:
    view = opened(browser, files["violated"], WIDE, dark=True)
    ink, surface = (_luminance(view, name) for name in ("--ink", "--surface"))
    assert (ink + 0.05) / (surface + 0.05) > 7
    view.emulate_media(media="print", color_scheme="dark")
    ink, surface = (_luminance(view, name) for name in ("--ink", "--surface"))
    assert (surface + 0.05) / (ink + 0.05) > 7
    assert not view.locator("nav").is_visible()
    view.close()


def _luminance(view: Page, name: str) -> float:
    value = (
        view.evaluate(
            "name => getComputedStyle(document.documentElement).getPropertyValue(name)", name
        )
        .strip()
        .removeprefix("#")
    )
    value = value if len(value) == 6 else "".join(each * 2 for each in value)
    parts = [int(value[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
