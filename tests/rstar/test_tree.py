"""The tree: views, the graph export, and that its invariants can fail."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import networkx
import pytest

from rstar.config import Guidance, SearchConfig
from rstar.protocols import ExecutionVerdict
from rstar.steps import StepKind
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree, check_invariants
from tests.rstar import golden_trees
from tests.rstar.worlds import RandomWorld, coarse_value, engines, new_tree, search_one


@pytest.fixture(scope="module")
def tree() -> Tree:
    """A searched tree with every kind of node: see `golden/every_ending.json`."""
    return golden_trees.grow(json.loads((golden_trees.FOLDER / "every_ending.json").read_text())["settings"])


def test_a_new_tree_is_a_root_at_rest() -> None:
    tree = Tree(problem_id="p1", question="?", tree_index=2)
    assert tree.name == "p1#2"
    assert (tree.root.parent, tree.root.depth, tree.root.kind) == (NO_PARENT, 0, None)
    assert (tree.root.q_value, tree.exhausted, tree.solved) == (0.0, False, False)
    assert tree.path(ROOT) == []
    assert tree.steps(ROOT) == []
    assert tree.program_output(ROOT) == ""
    check_invariants(tree)


def test_paths_steps_and_outputs_follow_parents(tree: Tree) -> None:
    for node_id, node in enumerate(tree.nodes):
        path = tree.path(node_id)
        assert len(path) == node.depth
        assert all(tree.nodes[b].parent == a for a, b in zip([ROOT, *path], path, strict=False))
        assert tree.program_output(node_id) == "".join(tree.nodes[i].stdout for i in path)
        if node.kind is not None:
            assert [step.text for step in tree.steps(node_id)] == [tree.nodes[i].text for i in path]


def test_endings_are_counted_by_reason_and_solved_means_verified(tree: Tree) -> None:
    reasons = [node.terminal for node in tree.nodes if node.terminal is not None]
    assert {*tree.terminal_reasons().elements()} == set(reasons)
    assert tree.terminal_reasons().total() == len(list(tree.terminal_nodes())) == len(reasons)
    assert set(reasons) == set(TerminalReason) - {TerminalReason.CONTEXT_OVERFLOW}
    assert tree.solved
    unsolved = copy.deepcopy(tree)
    for node in unsolved.nodes:
        node.verified = False if node.verified else node.verified
    assert not unsolved.solved


def test_the_graph_holds_every_node_edge_and_field_and_survives_graphml(tree: Tree, tmp_path: Path) -> None:
    graph = tree.to_networkx()
    assert networkx.is_arborescence(graph)
    assert list(graph.nodes) == list(range(len(tree.nodes)))
    assert set(graph.edges) == {(node.parent, i) for i, node in enumerate(tree.nodes) if i != ROOT}
    assert graph.graph["problem_id"] == tree.problem_id
    for node_id, node in enumerate(tree.nodes):
        attributes = graph.nodes[node_id]
        assert attributes["visit_count"] == node.visit_count
        assert attributes["q_value"] == node.q_value
        assert attributes["text"] == node.text
        assert attributes.get("terminal") == (None if node.terminal is None else str(node.terminal))
        assert attributes.get("answer") == node.answer
        assert type(attributes["execution"]) is str
    networkx.write_graphml(graph, tmp_path / "tree.graphml")
    back = networkx.read_graphml(tmp_path / "tree.graphml", node_type=int)
    assert {i: back.nodes[i]["value_sum"] for i in back} == {
        i: node.value_sum for i, node in enumerate(tree.nodes)
    }


def _first(tree: Tree, wanted: Callable[[Node], bool]) -> Node:
    return next(node for node in tree.nodes if wanted(node))


def _failed(node: Node) -> bool:
    return not node.live


def _open_leaf(tree: Tree) -> Node:
    leaf = Node(parent=ROOT, depth=1, kind=StepKind.CODE)
    tree.nodes.append(leaf)
    tree.root.children.append(len(tree.nodes) - 1)
    return leaf


def _move_below_the_last_node(tree: Tree) -> None:
    """A failed step, which counts nowhere, in the wrong place."""
    node_id = tree.nodes.index(_first(tree, _failed))
    tree.nodes[tree.nodes[node_id].parent].children.remove(node_id)
    tree.nodes[node_id].parent = len(tree.nodes) - 1
    tree.nodes[-1].children.append(node_id)


def _reward_of_a_half_more(tree: Tree) -> None:
    """Backed up in due form, but outside [-1, 1]."""
    node_id = tree.nodes.index(_first(tree, lambda node: bool(node.verified)))
    for at in (ROOT, *tree.path(node_id)):
        tree.nodes[at].value_sum += 0.5


BREAKAGES: dict[str, tuple[Callable[[Tree], object], str]] = {
    "in flight": (lambda t: setattr(t.root, "in_flight", 1), "in flight"),
    "root with a parent": (lambda t: setattr(t.root, "parent", 3), "no parent"),
    "root off the ground": (lambda t: setattr(t.root, "depth", 1), "depth 0"),
    "parent after child": (_move_below_the_last_node, "parent comes before it"),
    "unlisted child": (lambda t: t.root.children.remove(1), "does not list it"),
    "listed twice": (lambda t: t.root.children.append(1), "listed twice"),
    "listed by a stranger": (
        lambda t: _first(t, lambda n: n.depth == 1 and bool(n.children)).children.append(
            next(i for i, n in enumerate(t.nodes) if n.depth == 1 and not n.children)
        ),
        "child of another node",
    ),
    "depth": (lambda t: setattr(t.nodes[-1], "depth", 9), "depth is its parent's plus one"),
    "failed with children": (
        lambda t: setattr(t.root, "execution", ExecutionVerdict.ERROR),
        "failed step has children",
    ),
    "failed and visited": (lambda t: setattr(_first(t, _failed), "visit_count", 1), "failed step was visited"),
    "failed and terminal": (
        lambda t: setattr(_first(t, _failed), "terminal", TerminalReason.UNPARSABLE),
        "failed step is not terminal",
    ),
    "failed and scored": (lambda t: setattr(_first(t, _failed), "initial_value", 0.5), "failed step was scored"),
    "terminal with a live child": (
        lambda t: setattr(
            _first(t, lambda n: n.depth > 0 and n.terminal is None and bool(n.children)),
            "terminal",
            TerminalReason.ANSWERED,
        ),
        "terminal node has a live child",
    ),
    "a visit counted twice": (lambda t: setattr(t.root, "visit_count", t.root.visit_count + 1), "parts add up"),
    "a visit not counted": (lambda t: setattr(t.nodes[-1], "visit_count", 0), "parts add up"),
    "a value counted twice": (lambda t: setattr(t.root, "value_sum", t.root.value_sum + 1), "W does not add up"),
    "Q out of range": (_reward_of_a_half_more, "Q is 1.5"),
    "open though exhausted": (lambda t: setattr(t.root, "closed", False), "closed is False, should be True"),
    "closed though open": (lambda t: setattr(_open_leaf(t), "closed", True), "closed is (True|False), should be"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_invariant_can_fail_and_names_the_node(name: str, tree: Tree) -> None:
    assert tree.exhausted
    check_invariants(tree)
    broken = copy.deepcopy(tree)
    breaks, message = BREAKAGES[name]
    breaks(broken)
    with pytest.raises(AssertionError, match=rf"p#0 node \d+: .*{message}"):
        check_invariants(broken)


def test_a_scored_dead_end_keeps_its_first_visit_and_an_answer_has_none() -> None:
    dead_end = Node(parent=0, depth=1, initial_value=0.5, terminal=TerminalReason.CODE_ERRORS)
    answer = Node(parent=0, depth=1, initial_value=0.5, terminal=TerminalReason.ANSWERED)
    assert dead_end.scored
    assert not answer.scored
    assert not Node(parent=0, depth=1).scored


def test_scored_trees_add_up_too() -> None:
    world = RandomWorld(crash=0.4)
    for seed in range(10):
        tree = new_tree(seed=seed)
        search_one(tree, engines(world.respond, value=coarse_value), SearchConfig(guidance=Guidance.PPM))
        check_invariants(tree)
        scored = next((node for node in tree.nodes if node.scored), None)
        if scored is not None:
            scored.value_sum += 0.5 if scored.terminal is None else 3
            with pytest.raises(AssertionError):
                check_invariants(tree)
