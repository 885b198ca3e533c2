"""Drawings: valid, the same for the same numbers, and with labels that do not cover each other."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounds.charts import bars, intervals, lines
from rounds.charts.canvas import PAPER, SEARCH, spread
from rounds.charts.intervals import Estimate
from rounds.charts.lines import Line, Point
from rounds.charts.tree import tree_drawing
from rstar.tree import Node, TerminalReason, Tree
from tests.rounds.run_facts import sample_tree

HERE = Line(label="here", colour=SEARCH, points=[Point(1, 0.5, 0.4, 0.6), Point(2, 1.0)])
PAPERS = Line(label="paper", colour=PAPER, points=[Point(1, 0.5), Point(3, 0.0)], dashes="--", numbered=False)
ROWS = [
    Estimate(label="a", colour=SEARCH, value=0.1, low=0.02, high=0.2, paper=0.5),
    Estimate(label="b", colour=PAPER, value=0.0, low=-0.1, high=0.1),
]
DRAWINGS: dict[str, Callable[[], str]] = {
    "shares": lambda: lines.shares("easy", [HERE, PAPERS], ticks={1: "round 1", 2: "round 2", 3: "round 3"}),
    "one point": lambda: lines.shares("easy", [Line(label="x", colour=SEARCH, points=[Point(1, 0.0)])], ticks={1: "1"}),
    "tokens": lambda: lines.by_tokens("easy", [HERE, PAPERS]),
    "tokens, one point": lambda: lines.by_tokens("easy", [Line(label="x", colour=SEARCH, points=[Point(90, 1.0)])]),
    "losses": lambda: lines.losses("r1", [1, 2, 3], [3.0, 2.0, 1.5], colour=SEARCH, ylabel="nats"),
    "one loss": lambda: lines.losses("r1", [1], [0.5], colour=SEARCH, ylabel="nats"),
    "columns": lambda: bars.columns("depth", {"1": 12_345, "2": 0}, colours=[SEARCH, PAPER], xlabel="depth"),
    "no columns": lambda: bars.columns("depth", {}, colours=[], xlabel="depth"),
    "parts": lambda: bars.parts("t", {"a": {"x": 1, "y": 2}, "b": {"y": 3}}, colours={"x": SEARCH, "y": PAPER}, xlabel="s"),
    "no parts": lambda: bars.parts("t", {"a": {}}, colours={"x": SEARCH}, percent=True),
    "estimates": lambda: intervals.shares("easy", ROWS),
    "differences": lambda: intervals.differences("easy", ROWS, reach=0.3, behind="worse", ahead="better"),
    "tree": lambda: tree_drawing(sample_tree(), [1, 4, 6]),
    "question alone": lambda: tree_drawing(Tree(problem_id="p", question="q")),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_valid_svg_and_the_same_for_the_same_numbers(name: str) -> None:
    drawing = DRAWINGS[name]()
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert drawing == DRAWINGS[name]()


def test_a_tree_deeper_than_the_stack_can_be_drawn() -> None:
    tree = Tree(problem_id="p", question="q")
    for depth in range(1, 1_200):
        tree.nodes[-1].children.append(depth)
        tree.nodes.append(Node(parent=depth - 1, depth=depth))
    tree.nodes[-1].terminal = TerminalReason.MAX_DEPTH
    assert tree_drawing(tree)


@given(st.lists(st.floats(0, 100), max_size=8), st.floats(0.5, 20))
def test_labels_stand_apart_in_the_order_of_what_they_name_and_in_the_mean_where_it_is(
    positions: list[float], gap: float
) -> None:
    moved = spread(positions, gap)
    order = sorted(range(len(positions)), key=lambda at: positions[at])
    assert all(moved[after] - moved[before] >= gap - 1e-6 for before, after in pairwise(order))
    assert sum(moved) == pytest.approx(sum(positions), abs=1e-6)


@given(st.lists(st.integers(0, 10), unique=True, max_size=8))
def test_labels_that_stand_apart_stay_where_they_are(positions: list[int]) -> None:
    assert spread([10.0 * position for position in positions], 9) == [
        10.0 * position for position in positions
    ]
