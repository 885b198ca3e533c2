"""A page says the same in Markdown and in HTML, and needs no other file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

from rounds import charts
from rounds.charts import Series
from rounds.page import Cards, Code, Figure, Heading, Page, Paragraph, Table, to_html, to_markdown, write
from rstar.tree import Node, TerminalReason, Tree

BAD = 'a <b> & "c" | d'
PAGE = Page(
    title="T",
    subtitle="made by `x`",
    blocks=[
        Heading("Found"),
        Paragraph(BAD),
        Paragraph("quiet", note=True),
        Cards([("63 %", "solved")]),
        Table(["level", "rate"], [["easy", "90"], [BAD, "1"]], frozenset({0})),
        Figure("one", '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "caption"),
        Code("x = '<code>'"),
    ],
)


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html_page_needs_nothing_else_and_shows_every_text_as_written() -> None:
    page = Collector()
    page.feed(to_html(PAGE))
    assert page.links == []
    assert not {"script", "link", "img"} & set(page.tags)
    assert page.text.count(BAD) == 2
    assert "x = '<code>'" in page.text
    assert "svg" in page.tags


def test_markdown_tables_keep_their_columns_whatever_the_cells_hold() -> None:
    lines = [line for line in to_markdown(PAGE).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)
    assert lines[2] == "| **easy** | **90** |"


def test_a_written_page_brings_its_figures_along(tmp_path: Path) -> None:
    write(PAGE, tmp_path, "report")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "report.html", "report.md"]
    assert "![caption](one.svg)" in (tmp_path / "report.md").read_text()


def test_charts_are_valid_svg_and_the_same_for_the_same_numbers() -> None:
    def draw() -> list[str]:
        return [
            charts.grouped_shares(["easy", "hard"], [Series("a", [0.5, None], [(0.4, 0.6), None]), Series("b", [1.0, 0.0])], ylabel="%"),
            charts.loss_curve([1, 2, 3], [3.0, 2.0, 1.5]),
            charts.counts({"answered": 90, "code_errors": 10}, xlabel="nodes"),
            charts.counts({}, xlabel="nodes"),
        ]  # fmt: skip

    first = draw()
    assert first == draw()
    for drawing in first:
        assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_a_tree_drawing_marks_every_node_once() -> None:
    tree = Tree(problem_id="p", question="q")
    tree.nodes += [
        Node(parent=0, depth=1, visit_count=1, value_sum=1.0),
        Node(parent=0, depth=1, terminal=TerminalReason.UNPARSABLE, visit_count=1, value_sum=-1.0),
    ]
    tree.nodes[0].children = [1, 2]
    assert ElementTree.fromstring(charts.tree_drawing(tree, [1])).tag.endswith("svg")
    assert ElementTree.fromstring(charts.tree_drawing(Tree(problem_id="p", question="q"))).tag.endswith("svg")
