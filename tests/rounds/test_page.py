"""A page says the same in Markdown and in HTML, and needs no other file."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from rounds.page import Cards, Code, Figure, Heading, Page, Paragraph, Table, to_html, to_markdown, write

BAD = 'a <b> & "c" | d'
SVG = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'
PAGE = Page(
    title="T",
    subtitle="made by `x`",
    blocks=[
        Heading("Found"),
        Paragraph(BAD),
        Paragraph("quiet", note=True),
        Cards([("63 %", "solved")]),
        Table(["level", "rate"], [["easy", "90"], [BAD, "1"]], frozenset({0})),
        Figure("one", [SVG], "caption"),
        Figure("two", [SVG, SVG], "side by side"),
        Code("x = '<code>'"),
    ],
)


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html_page_needs_nothing_else_and_shows_every_text_as_written() -> None:
    page = Collector()
    page.feed(to_html(PAGE))
    assert page.links == ["#found"]
    assert not {"script", "link", "img"} & set(page.tags)
    assert page.text.count(BAD) == 2
    assert "x = '<code>'" in page.text
    assert page.tags.count("svg") == 3


def test_markdown_tables_keep_their_columns_whatever_the_cells_hold() -> None:
    lines = [line for line in to_markdown(PAGE).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)
    assert lines[2] == "| **easy** | **90** |"


def test_a_written_page_brings_its_figures_along(tmp_path: Path) -> None:
    write(PAGE, tmp_path, "report")
    files = ["one.svg", "report.html", "report.md", "two-1.svg", "two-2.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    written = (tmp_path / "report.md").read_text()
    assert "![caption](one.svg)" in written
    assert "![side by side](two-1.svg) ![side by side](two-2.svg)\n\n*side by side*" in written


def test_a_heading_can_be_linked_to_whatever_it_holds() -> None:
    page = Collector()
    page.feed(
        to_html(
            Page(title="T", subtitle="", blocks=[Heading("Search & sampling, at 100%"), Heading("below", 3)])
        )
    )
    assert page.links == ["#search-sampling-at-100"]
    assert page.ids == ["search-sampling-at-100", "below"]
