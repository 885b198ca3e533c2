"""What goes in comes out, exactly."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.forest import grow_tree
from rstar.errors import StoreError
from rstar.store import Outcome, Store, StoreWriter
from rstar.store.text import escape, unescape
from rstar.trajectories import trajectories
from rstar.tree import Node, TerminalReason, Tree, check_invariants
from tests.rstar.store.strategies import any_text, same, trees


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    st.lists(trees(), max_size=4, unique_by=lambda tree: (tree.problem_id, tree.tree_index)), st.booleans()
)
def test_trees_come_back_exactly_from_journal_and_parts(forest: list[Tree], in_parts: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder)
        with store.writer(round=3) as writer:
            for tree in forest:
                writer.append(tree, level="\ud800", source="é")
            if in_parts:
                writer.flush()
            read = list(store.trees())
            found = list(store.trajectories(3))
            records = store.records(3)
        assert len(read) == len(forest)
        assert all(same(a, b) for a, b in zip(read, forest, strict=True))
        assert repr(found) == repr([t for tree in forest for t in trajectories(tree)])
        assert [(r.problem_id, r.tree_index) for r in records] == [
            (t.problem_id, t.tree_index) for t in forest
        ]
        assert all((r.level, r.source) == ("\ud800", "é") for r in records)


@given(any_text)
def test_any_text_survives_escaping_and_becomes_utf8(text: str) -> None:
    escape(text).encode("utf-8")
    assert unescape(escape(text)) == text


@given(st.text())
def test_ordinary_text_is_not_changed_by_escaping(text: str) -> None:
    if "\U0010fffd" not in text:
        assert escape(text) is text


def test_nan_is_kept_and_reported_by_validation(tmp_path: Path) -> None:
    tree = grow_tree("p", 1, num_rollouts=1)
    tree.nodes[1].mean_logprob = math.nan
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        writer.append(tree)
    assert same(store.tree("p", round=1), tree)
    assert [fault.what for fault in store.validate()] == ["p#0 node 1: mean_logprob is nan"]


def test_none_and_empty_text_stay_apart(tmp_path: Path) -> None:
    tree = grow_tree("p", 1, num_rollouts=1)
    tree.nodes[1].answer, tree.nodes[2].answer = "", None
    with Store.create(tmp_path).writer(round=1) as writer:
        writer.append(tree)
    nodes = Store(tmp_path).tree("p", round=1).nodes
    assert (nodes[1].answer, nodes[2].answer) == ("", None)


def test_a_tree_that_spans_row_groups_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar.store.files.ROW_GROUP_ROWS", 50)
    forest = [grow_tree(f"p{n}", n, num_rollouts=3) for n in range(6)]
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        for tree in forest:
            writer.append(tree)
    assert list(store.trees()) == forest
    assert [store.tree(tree.problem_id, round=1) for tree in reversed(forest)] == forest[::-1]
    assert list(store.trees(problem_ids={"p4", "p1"})) == [forest[1], forest[4]]


def test_grown_trees_are_sound_and_stay_so(tmp_path: Path) -> None:
    forest = [grow_tree(f"p{n}", n, num_rollouts=6, scored=n % 2 > 0) for n in range(8)]
    for tree in forest:
        check_invariants(tree)
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        for tree in forest:
            writer.append(tree)
    assert store.validate() == []
    assert list(store.trees()) == forest


def _answered(verified: bool | None) -> Tree:
    tree = grow_tree("p", 2, num_rollouts=12, skill=1.0)
    for node in tree.nodes:
        if node.terminal is TerminalReason.ANSWERED:
            node.verified = verified
    return tree


@pytest.mark.parametrize(
    ("verified", "outcome"), [(True, Outcome.SOLVED), (False, Outcome.UNSOLVED), (None, Outcome.UNJUDGED)]
)
def test_outcome_says_what_the_answers_came_to(
    tmp_path: Path, verified: bool | None, outcome: Outcome
) -> None:
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        writer.append(_answered(verified))
    assert [record.outcome for record in store.records()] == [outcome]
    assert store.keys(1, outcomes={outcome}) == {("p", 0)}
    assert store.keys(1, outcomes=set(Outcome) - {outcome}) == set()


def _broken(tree: Tree, what: str) -> Tree:
    match what:
        case "in flight":
            tree.nodes[0].in_flight = 1
        case "child unknown to its parent":
            tree.nodes[0].children.pop()
        case "child before its parent":
            tree.nodes[1].parent = 5
        case "root with a parent":
            tree.nodes[0].parent = 0
        case "answered without an answer":
            tree.nodes[1].terminal, tree.nodes[1].answer = TerminalReason.ANSWERED, None
        case "token id too large":
            tree.nodes[1].token_ids = (2**32,)
        case "negative token id":
            tree.nodes[1].token_ids = (-1,)
        case "seed too large":
            tree.seed = 2**63
        case "no root":
            tree.nodes = []
        case "step after a step that does not parse":
            tree.nodes[1].children = [len(tree.nodes)]
            tree.nodes[1].kind = None
            tree.nodes.append(Node(parent=1, depth=2))
        case _:
            raise AssertionError(what)
    return tree


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("in flight", "still in flight"),
        ("child unknown to its parent", "node 0: its children are"),
        ("child before its parent", "node 1: its parent is 5"),
        ("root with a parent", "the root's parent"),
        ("answered without an answer", "no step with an answer"),
        ("token id too large", "no column can hold"),
        ("negative token id", "no column can hold"),
        ("seed too large", "no column can hold"),
        ("no root", "has no root"),
        ("step after a step that does not parse", "nothing can follow it"),
    ],
)
def test_a_tree_that_could_not_be_read_back_is_refused(tmp_path: Path, what: str, message: str) -> None:
    store = Store.create(tmp_path)
    tree = _broken(grow_tree("p", 3, num_rollouts=1), what)
    with store.writer(round=1) as writer:
        _refused(writer, tree, message)
        writer.append(grow_tree("q", 3, num_rollouts=1))
    assert store.keys() == {("q", 0)}


def _refused(writer: StoreWriter, tree: Tree, message: str) -> None:
    with pytest.raises(StoreError, match=message) as refusal:
        writer.append(tree)
    assert "\n" not in str(refusal.value)
