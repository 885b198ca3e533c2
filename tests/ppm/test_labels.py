"""Labels for the baselines: every step that was tried with its Q-value, every judged trajectory with its reward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.forest import chunk_ids, grow_tree
from ppm.config import Objective, PairConfig
from ppm.groups import LabelledSet
from ppm.labels import labelled_set
from ppm.pairs import pair_set
from rstar.prompts import BARE, render_prompt
from rstar.protocols import ExecutionVerdict
from rstar.steps import END_OF_CODE, END_OF_STEP
from rstar.trajectories import prefix_of, trajectories
from rstar.tree import ROOT, TerminalReason, Tree
from tests.policy.forest import add_solution, add_step, encode, tree_of
from tests.rstar.trees import grow


def labels_of(
    *trees: Tree, objective: Objective = Objective.PQM, config: PairConfig | None = None, **changes: Any
) -> LabelledSet:
    arguments: dict[str, Any] = {"format": BARE, "encode": encode, "max_output_chars": 2000, **changes}
    return labelled_set(trees, objective=objective, config=config or PairConfig(), **arguments)


def labelled(made: LabelledSet) -> dict[int, float]:
    return {c.node_id: c.q_value for group in made.groups for c in group.continuations}


def test_hand_worked_tree() -> None:
    """A right and a wrong path, and what no rollout went through: only the value model, or nobody, was there."""
    tree = tree_of()
    right = add_solution(tree, ["print(7)"], "7", q=1.0)
    wrong = add_solution(tree, ["print(8)"], "8", q=-1.0, verified=False)
    unvisited = add_step(tree, ROOT, f"# never\n{END_OF_STEP}")
    tree.nodes[unvisited].visit_count = 0
    only_scored = add_step(tree, ROOT, f"# scored\n{END_OF_STEP}", q=0.3)
    tree.nodes[only_scored].initial_value = 0.3
    failed = add_step(tree, ROOT, f"1 / 0\n{END_OF_STEP}", execution=ExecutionVerdict.ERROR)
    tree.nodes[failed].visit_count = 0
    scored = add_step(tree, ROOT, f"# scored and tried\n{END_OF_STEP}", q=-0.35)
    tree.nodes[scored].initial_value, tree.nodes[scored].visit_count = 0.3, 2
    tree.nodes[scored].value_sum = -0.7
    assert labelled(labels_of(tree)) == {right[0]: 1, right[1]: 1, wrong[0]: -1, wrong[1]: -1, scored: -0.35}
    made = labels_of(tree)
    assert [group.parent for group in made.groups] == [ROOT, right[0], wrong[0]]
    outcomes = labels_of(tree, objective=Objective.ORM)
    assert labelled(outcomes) == {right[1]: 1.0, wrong[1]: -1.0}
    assert [group.parent for group in outcomes.groups] == [ROOT]


@pytest.mark.parametrize("reason", sorted(set(TerminalReason) - {TerminalReason.ANSWERED}))
def test_a_dead_end_is_labelled_and_what_no_search_asks_about_is_not(reason: TerminalReason) -> None:
    tree = tree_of()
    ended = add_step(tree, ROOT, f"# ended\n{END_OF_STEP}", q=-1.0)
    tree.nodes[ended].terminal = reason
    assert labelled(labels_of(tree)) == ({ended: -1.0} if reason is TerminalReason.CODE_ERRORS else {})
    assert labels_of(tree, objective=Objective.ORM).groups == ()


def test_trees_that_give_no_pairs_give_labels() -> None:
    tree = tree_of()
    path = add_solution(tree, ["print(7)"], "7", q=1.0)
    arguments: dict[str, Any] = {"format": BARE, "encode": encode, "max_output_chars": 2000}
    assert pair_set([tree], config=PairConfig(), **arguments).groups == ()
    assert labelled(labels_of(tree)) == dict.fromkeys(path, 1.0)


@pytest.mark.parametrize("objective", [Objective.PQM, Objective.ORM])
def test_what_is_judged_and_too_long_is_left_out_and_counted(objective: Objective) -> None:
    tree = tree_of()
    short = add_solution(tree, ["print(7)"], "7", q=1.0)
    step = add_step(tree, ROOT, f"# {'l' * 200}\n{END_OF_CODE}", q=-1.0)
    answer = add_step(tree, step, r"<answer>\boxed{8}<end_of_answer>", q=-1.0, verified=False)
    made = labels_of(tree, objective=objective, config=PairConfig(max_tokens=150))
    assert made.num_too_long == 1
    kept = {*short, answer} if objective is Objective.PQM else {short[-1]}
    assert labelled(made).keys() == kept


def test_steps_of_another_tokenizer_are_encoded_anew_on_demand() -> None:
    tree = tree_of()
    add_solution(tree, ["print(7)"], "7", q=1.0)
    before = copy.deepcopy(tree)
    for objective in (Objective.PQM, Objective.ORM):
        for group in labels_of(tree, objective=objective, config=PairConfig(retokenize=True)).groups:
            for continuation in group.continuations:
                assert list(continuation.token_ids) == encode(continuation.text)
    assert tree == before


def test_fault_8_ids_are_those_that_the_search_showed_and_sampled() -> None:
    tree = grow(seed=1, num_rollouts=8)
    num_checked = 0
    for objective in (Objective.PQM, Objective.ORM):
        for group in labels_of(tree, objective=objective).groups:
            for continuation in group.continuations:
                parent = tree.nodes[continuation.node_id].parent
                shown = prefix_of(
                    tree, parent, prompt=render_prompt(BARE, tree.question), encode=encode, max_output_chars=2000
                )  # fmt: skip
                whole = shown.token_ids + tree.nodes[continuation.node_id].token_ids
                assert group.prefix_ids + continuation.token_ids == whole
                num_checked += 1
    assert num_checked > 10


@settings(max_examples=20)
@given(seed=st.integers(0, 99), scored=st.booleans())
def test_labels_hold_those_of_the_pairs_and_every_judged_trajectory(seed: int, scored: bool) -> None:
    tree = grow_tree("p", seed, scored=scored)
    steps = labelled(labels_of(tree, encode=chunk_ids))
    assert steps == {
        node_id: node.q_value
        for node_id, node in enumerate(tree.nodes)
        if node_id != ROOT
        and node.visit_count - (scored and node.initial_value is not None) > 0
        and node.terminal is not TerminalReason.MAX_DEPTH
    }
    arguments: dict[str, Any] = {"format": BARE, "encode": chunk_ids, "max_output_chars": 2000}
    pairs = pair_set([tree], config=PairConfig(min_edit_distance=0), **arguments)
    for group in pairs.groups:
        assert {c.node_id for c in group.continuations} <= steps.keys()
    outcomes = labelled(labels_of(tree, objective=Objective.ORM, encode=chunk_ids))
    assert outcomes == {t.node_ids[-1]: 1.0 if t.verified else -1.0 for t in trajectories(tree)}
