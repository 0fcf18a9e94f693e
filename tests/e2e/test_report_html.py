"""The HTML report in a browser: nothing fetched, nothing complained of, and its controls work.

Needs playwright and a Chromium (`apt install chromium`, or `playwright install chromium`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))
from made import LEVELS, spec_of, write_run, write_study

from harness.cli import main

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
HOSTILE = ("<script>alert(1)</script>", '=HYPERLINK("http://x","y")')
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("html")
    write_study(root / "runs", n=150)
    for name in HOSTILE:
        write_run(root / "runs", spec_of(name), n=150)
    out = root / "report.html"
    assert main(["report", "--results", str(root / "runs"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


class Opened:
    """The report in a page, and all that happened in it."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on(
            "dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss())
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    own = Opened(browser, page_file, viewport={"width": 1300, "height": 900})
    yield own
    assert own.said == []
    assert own.requests == [page_file.as_uri()]
    own.context.close()


def first_column(page: Any) -> list[str]:
    return list(page.locator("table.accuracy >> nth=0").locator("tbody tr:visible th").all_inner_texts())


def test_small_quiet_and_alone(opened: Opened, page_file: Path):
    assert page_file.stat().st_size < 8 * 2**20
    opened.page.mouse.wheel(0, 20_000)
    opened.page.wait_for_timeout(200)


def test_sorting(opened: Opened):
    page = opened.page
    head = page.locator("table.accuracy >> nth=0").locator("thead th").nth(2)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    down = first_column(page)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(page) == down[::-1]
    assert down[-1] == "zero-shot"
    foot = page.locator("table.accuracy >> nth=0").locator("tfoot tr").all_inner_texts()
    assert any("chance" in row for row in foot)


def test_search(opened: Opened):
    page = opened.page
    page.fill("#search", "qlora")
    assert first_column(page) == ["qlora"]
    assert " of " in page.inner_text("#found")
    page.fill("#search", "")
    assert len(first_column(page)) == len(LEVELS) + len(HOSTILE)


def test_pareto_shows_every_strategy_on_every_cost(opened: Opened):
    pareto = opened.page.locator(".pareto").first
    radios = pareto.locator("input[type=radio]")
    titles = [text.strip() for text in pareto.locator(".views label").all_inner_texts()]
    assert {"GPU memory", "host memory", "training time", "adapter size", "trainable share"} == set(titles)
    for index in range(radios.count()):
        radios.nth(index).check()
        tips = pareto.locator(".view:visible .mark").evaluate_all("all => all.map(e => e.dataset.tip)")
        assert {tip.split(": ")[0] for tip in tips} == {*LEVELS, *HOSTILE}
        assert pareto.locator(".view:visible .whisker").count() == len(tips)
        assert pareto.locator(".view:visible").count() == 1


def test_legend_hides_a_strategy_and_tips_show_on_focus(opened: Opened):
    page = opened.page
    charts = page.locator(".charts").first
    toggle = charts.get_by_role("button", name="full", exact=True)
    number = toggle.get_attribute("data-toggle")
    assert charts.locator(f".pareto g[data-series='{number}']:visible").count() == 1
    toggle.click()
    assert charts.locator(f"figure [data-series='{number}']:visible").count() == 0
    toggle.click()
    mark = charts.locator(f".pareto .view:visible .mark[data-series='{number}']")
    mark.focus()
    assert page.inner_text("#tip").startswith("full: ")


def test_all_charts_are_there(opened: Opened):
    titles = opened.page.locator(".charts >> nth=0").locator("figcaption").all_inner_texts()
    assert titles == [
        "Accuracy against cost", "Accuracy and its spread over seeds", "Learning curves", "Reliability", "By subject",
    ]  # fmt: skip


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_are_readable(browser: Any, page_file: Path, scheme: str):
    own = Opened(browser, page_file, color_scheme=scheme)
    paper = own.page.evaluate("getComputedStyle(document.body).backgroundColor")
    panel = own.page.locator("figure").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert (luminance(paper) < 0.2) == (scheme == "dark")
    for selector in ("body", ".note", "td.worse", "td.no_difference_shown", "nav a", "tfoot td"):
        colour = own.page.locator(selector).first.evaluate("e => getComputedStyle(e).color")
        assert contrast(colour, paper) >= 4.5, selector
    for selector in ("figure text.tick", "figure text.label"):
        colour = own.page.locator(selector).first.evaluate("e => getComputedStyle(e).fill")
        assert contrast(colour, panel) >= 4.5, selector
    for number in range(8):
        colour = own.page.evaluate(
            f"() => {{ const e = document.createElement('i'); e.className = 's{number}'; document.body.append(e);"
            " return getComputedStyle(e).color; }"
        )
        assert contrast(colour, panel) >= 3, number
    own.context.close()


def test_theme_button_and_keyboard(opened: Opened):
    page = opened.page
    page.locator("#theme").press("Enter")
    page.locator("#theme").press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.2
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


def test_narrow_pages_scroll_inside_and_not_aside(browser: Any, page_file: Path):
    own = Opened(browser, page_file, viewport={"width": 390, "height": 800})
    assert own.page.evaluate("document.documentElement.scrollWidth") <= 390
    own.context.close()


def test_saved_data_is_the_report(opened: Opened):
    with opened.page.expect_download() as waiting:
        opened.page.click("#save")
    data = json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
    assert {row["label"] for row in data["tables"][0]["rows"]} == {*LEVELS, *HOSTILE}
    opened.requests[:] = [url for url in opened.requests if not url.startswith("blob:")]


def test_printing_shows_all_and_no_controls(browser: Any, page_file: Path):
    own = Opened(browser, page_file)
    own.page.emulate_media(media="print")
    assert not own.page.locator(".controls").is_visible()
    pareto = own.page.locator(".pareto").first
    assert pareto.locator(".view:visible").count() == pareto.locator(".view").count()
    own.context.close()


@pytest.mark.skipif(not os.environ.get("SCREENSHOTS"), reason="set SCREENSHOTS=DIR to look at the pages")
def test_screenshots(browser: Any, page_file: Path):
    folder = Path(os.environ["SCREENSHOTS"])
    for name, width, scheme in (("light", 1300, "light"), ("dark", 1300, "dark"), ("narrow", 390, "light")):
        own = Opened(browser, page_file, viewport={"width": width, "height": 900}, color_scheme=scheme)
        own.page.screenshot(path=folder / f"report-{name}.png", full_page=True)
        own.context.close()
