"""Trees written for other programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import networkx
import pytest
from hypothesis import given

from benchmarks.forest import grow_tree
from rstar.errors import StoreError
from rstar.exports import (
    FAILED,
    RIGHT,
    UNVISITED,
    WRONG,
    colour,
    from_json,
    label,
    read_tree,
    to_dot,
    to_graphml,
    to_json,
    write_tree,
)
from rstar.protocols import ExecutionVerdict
from rstar.steps import StepKind
from rstar.tree import ROOT, Node, TerminalReason, Tree
from tests.rstar.store.strategies import same, trees


@given(trees())
def test_json_comes_back_exactly_and_is_strict(tree: Tree) -> None:
    text = to_json(tree)
    text.encode("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert same(from_json(text), tree)


@given(trees())
def test_graphml_of_any_tree_has_its_nodes_and_edges(tree: Tree) -> None:
    graph = networkx.parse_graphml(to_graphml(tree), node_type=int)
    assert sorted(graph.nodes) == list(range(len(tree.nodes)))
    assert set(graph.edges) == {(node.parent, n) for n, node in enumerate(tree.nodes) if n != ROOT}


@given(trees())
def test_dot_of_any_tree_is_utf8_with_balanced_strings(tree: Tree) -> None:
    dot = to_dot(tree)
    dot.encode("utf-8")
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "S", dot, flags=re.DOTALL)
    assert '"' not in outside
    assert len(re.findall(r"^  \d+ \[label=S", outside, re.MULTILINE)) == len(tree.nodes)
    assert len(re.findall(r"^  \d+ -> \d+ \[", outside, re.MULTILINE)) == len(tree.nodes) - 1


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_draws_the_dot_file(tmp_path: Path) -> None:
    write_tree(grow_tree("p", 4, num_rollouts=3), tmp_path / "tree.dot")
    drawn = subprocess.run(
        ["dot", "-Tsvg", tmp_path / "tree.dot"], capture_output=True, text=True, check=True
    )
    assert "<svg" in drawn.stdout


@pytest.mark.parametrize("suffix", [".json", ".JSON", ".dot", ".gv", ".graphml"])
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str) -> None:
    tree = grow_tree("p", 4, num_rollouts=2)
    path = tmp_path / f"tree{suffix}"
    write_tree(tree, path)
    render = {".json": to_json, ".dot": to_dot, ".gv": to_dot, ".graphml": to_graphml}[suffix.lower()]
    assert path.read_text("utf-8") == render(tree)
    if suffix == ".json":
        assert read_tree(path) == tree


def test_graphml_file_keeps_the_statistics(tmp_path: Path) -> None:
    tree = grow_tree("p", 4, num_rollouts=3, scored=True)
    write_tree(tree, tmp_path / "tree.graphml")
    graph = networkx.read_graphml(tmp_path / "tree.graphml", node_type=int)
    for node_id, node in enumerate(tree.nodes):
        assert graph.nodes[node_id]["text"] == node.text
        assert graph.nodes[node_id]["visit_count"] == node.visit_count
        assert graph.nodes[node_id]["q_value"] == node.q_value
        assert graph.nodes[node_id]["label"] == label(tree, node_id)
    assert graph.graph["question"] == tree.question


@pytest.mark.parametrize("name", ["tree.svg", "tree", "tree.json.gz"])
def test_an_unknown_suffix_is_one_line_that_lists_the_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"use one of \.graphml, \.dot, \.gv, \.json") as refusal:
        write_tree(grow_tree("p", 4, num_rollouts=1), tmp_path / name)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        write_tree(grow_tree("p", 4, num_rollouts=1), tmp_path / "none" / "tree.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no tree in JSON"),
        ("[1]", 'has no "format"'),
        ('{"format": "rstar tree", "schema_version": 99}', "schema version 99"),
        ('{"format": "rstar tree", "schema_version": 1}', "problem_id"),
    ],
)
def test_other_json_is_refused_with_the_file_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=message) as refusal:
        read_tree(path)
    assert "other.json" in str(refusal.value)


def test_a_parent_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    write_tree(grow_tree("p", 4, num_rollouts=1), path)
    path.write_text(path.read_text().replace('{"parent": 0,', '{"parent": 99,', 1))
    with pytest.raises(StoreError, match="node 1: its parent is 99"):
        read_tree(path)
    with pytest.raises(StoreError, match="cannot be read"):
        read_tree(tmp_path / "none.json")


def _tree(node: Node) -> Tree:
    tree = Tree(problem_id="p", question="How many <output> apples\nare left?")
    tree.nodes[ROOT].children.append(1)
    tree.nodes.append(node)
    return tree


@pytest.mark.parametrize(
    ("node", "text", "fill"),
    [
        (Node(parent=0, depth=1, text="x = 1\n<end_of_step>", kind=StepKind.CODE), "x = 1\nN=0", UNVISITED),
        (
            Node(parent=0, depth=1, text="x = 1\n<end_of_step>", visit_count=4, value_sum=-2.0),
            "x = 1\nN=4 Q=-0.50", "#fae5d3",
        ),
        (Node(parent=0, depth=1, text="y", visit_count=2, value_sum=2.0), "y\nN=2 Q=+1.00", "#85c1e9"),
        (
            Node(parent=0, depth=1, text="x", execution=ExecutionVerdict.ERROR, error="NameError: x"),
            "x\n✗ error: NameError: x", FAILED,
        ),
        (Node(parent=0, depth=1, text="x", execution=ExecutionVerdict.TIMEOUT), "x\n✗ timeout", FAILED),
        (
            Node(parent=0, depth=1, text="<answer>a<end_of_answer>", answer="7", verified=True, visit_count=1, value_sum=1.0),
            "a\n✓ 7\nN=1 Q=+1.00", RIGHT,
        ),
        (Node(parent=0, depth=1, text="a", answer="7", verified=False, visit_count=1), "a\n✗ 7\nN=1 Q=+0.00", WRONG),
        (Node(parent=0, depth=1, text="a", answer="7", visit_count=1), "a\n= 7\nN=1 Q=+0.00", "#ffffff"),
        (
            Node(parent=0, depth=1, text="a" * 50, terminal=TerminalReason.MAX_DEPTH, visit_count=1, value_sum=-1.0),
            f"{'a' * 35}…\n✗ max depth\nN=1 Q=-1.00", WRONG,
        ),
    ],
)  # fmt: skip
def test_label_and_colour_say_how_a_step_ended(node: Node, text: str, fill: str) -> None:
    assert label(_tree(node), 1) == text
    assert colour(node) == fill


def test_the_root_shows_the_question_without_tags() -> None:
    assert label(_tree(Node(parent=0, depth=1)), ROOT) == "How many  apples\nare left?\nN=0".replace(
        "  ", " "
    )


def test_backslashes_and_quotes_stay_text_in_dot() -> None:
    dot = to_dot(_tree(Node(parent=0, depth=1, text='print("\\N \\boxed{1}")')))
    assert 'label="print(\\"\\\\N \\\\boxed{1}\\")\\nN=0"' in dot
