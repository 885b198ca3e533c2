"""The report in a real browser: it asks for nothing else, every figure is painted, and it fits a desk and a phone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rounds.page import Block, Figure, Page, Table, write
from rounds.report import report
from tests.rounds.browser import Browser, find_chromium
from tests.rounds.run_facts import run_facts

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
DESK, PHONE = 980, 400


@pytest.fixture(scope="module")
def blocks() -> Sequence[Block]:
    return report(run_facts()).blocks


@pytest.fixture(scope="module")
def page(blocks: Sequence[Block], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(Page(title="Self-evolution", subtitle="made up", blocks=blocks), folder, "report")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_the_page_asks_for_nothing_but_itself_and_reports_no_error(page: Path, browser: Browser) -> None:
    browser.open(page, width=DESK)
    assert browser.requests() == [page.as_uri()]
    assert [
        event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
    ] == []


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_is_wider_than_the_window_but_tables_in_their_own_scroll(
    page: Path, browser: Browser, width: int
) -> None:
    browser.open(page, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg') "
        "&& e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.evaluate(outside) == []


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_every_figure_is_painted_whole_and_large_enough_to_read(
    blocks: Sequence[Block], page: Path, browser: Browser, width: int
) -> None:
    browser.open(page, width=width)
    expected = sum(len(block.drawings) for block in blocks if isinstance(block, Figure))
    drawings = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map(e => { const r = e.getBoundingClientRect(), v = e.viewBox.baseVal; return "
        "{width: r.width, height: r.height, ratio: r.width / r.height - v.width / v.height, "
        "painted: [...e.querySelectorAll('path')].some(p => p.getBoundingClientRect().width > 0.2 * r.width)}; })"
    )
    assert len(drawings) == expected
    for drawing in drawings:
        assert drawing["width"] >= min(400, 0.85 * width)
        assert drawing["height"] >= 70
        assert abs(drawing["ratio"]) < 0.05, "not distorted"
        assert drawing["painted"]


def test_every_table_and_every_section_of_the_contents_is_there(
    blocks: Sequence[Block], page: Path, browser: Browser
) -> None:
    browser.open(page, width=DESK)
    tables = [block for block in blocks if isinstance(block, Table)]
    assert browser.evaluate("[...document.querySelectorAll('table')].map(t => t.tBodies[0].rows.length)") == [
        len(table.rows) for table in tables
    ]
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.getBoundingClientRect().height > 20)"
    )
    targets = "[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.getAttribute('href'))?.textContent)"
    titles = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert browser.evaluate(targets) == titles
    assert len(titles) == 10
