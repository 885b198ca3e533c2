"""Preference pairs: hand-worked trees, a naive recursive reference, the published pairs."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.forest import chunk_ids, grow_tree
from ppm.config import PairConfig
from ppm.groups import DropReason, PairGroup, PairKind, PairReport, PairSet
from ppm.pair_table import read_groups, to_table
from ppm.pairs import pair_set
from rstar.prompts import BARE, RSTAR, render_prompt
from rstar.protocols import ExecutionVerdict
from rstar.steps import END_OF_CODE, END_OF_STEP, Step, StepKind, parse_solution
from rstar.store import Kind, Store
from rstar.trajectories import prefix_of, trajectories
from rstar.tree import ROOT, Node, TerminalReason, Tree, check_invariants
from tests.policy.forest import add_solution, add_step, encode, tree_of
from tests.ppm.test_edit_distance import naive_distance
from tests.rstar.trees import grow

ANY_TEXTS = PairConfig(min_edit_distance=0)
"""The paper's rule without the filter on texts, which are short here."""


def pairs_of(*trees: Tree, config: PairConfig = ANY_TEXTS, **changes: Any) -> PairSet:
    arguments: dict[str, Any] = {"format": BARE, "encode": encode, "max_output_chars": 2000, **changes}
    return pair_set(trees, config=config, **arguments)


def branch(tree: Tree, name: str, q: float, verified: list[bool], *, parent: int = ROOT) -> int:
    """A code step below `parent`, and below it one final code step with an answer for each entry of `verified`. Q-values
    below the step are equal, so that no pair is formed there."""
    step = add_step(tree, parent, f"# {name}\n{END_OF_STEP}", q=q)
    for index, right in enumerate(verified):
        code = add_step(tree, step, f"print({index})\n{END_OF_CODE}", q=q, stdout=f"{index}\n")
        text = f"<answer>\\boxed{{{index}}}<end_of_answer>"
        add_step(tree, code, text, q=1.0 if right else -1.0, verified=right)
    return step


def sides(groups: tuple[PairGroup, ...], parent: int = ROOT) -> tuple[list[int], list[int]]:
    """Node ids of the chosen and the rejected steps after `parent`, sorted."""
    (group,) = [g for g in groups if g.kind is PairKind.STEP and g.parent == parent]
    return sorted(c.node_id for c in group.chosen), sorted(c.node_id for c in group.rejected)


def test_hand_worked_prefix_with_two_steps_on_each_side() -> None:
    tree = tree_of()
    best = branch(tree, "best", 0.9, [True])
    mixed_high = branch(tree, "mixed high", 0.4, [True, False])
    mixed_low = branch(tree, "mixed low", -0.2, [True, False])
    worst = branch(tree, "worst", -1.0, [False])
    made = pairs_of(tree)
    (group,) = [g for g in made.groups if g.kind is PairKind.STEP]
    assert [c.node_id for c in group.chosen] == [best, mixed_high]
    assert [c.node_id for c in group.rejected] == [worst, mixed_low]
    assert group.pairs == ((0, 0), (0, 1), (1, 0), (1, 1))
    pairs = list(group.preference_pairs())
    assert [round(pair.q_margin, 9) for pair in pairs] == [1.9, 1.1, 1.4, 0.6]
    assert (pairs[0].parent, pairs[0].chosen.depth, pairs[0].chosen.text) == (
        ROOT,
        1,
        f"# best\n{END_OF_STEP}",
    )
    assert made.report.num_pairs == {PairKind.STEP: 4, PairKind.FINAL: 4}
    assert made.report.depths == {1: 4}
    assert made.report.margins == {1.75: 1, 1.0: 1, 1.25: 1, 0.5: 1, 0.0: 2}  # 0.0: below the mixed steps
    assert made.report.dropped == {DropReason.MARGIN: 2}
    assert made.report.common_prefix_share == 0.5


def test_a_step_that_never_leads_to_a_correct_answer_is_rejected_before_one_that_does() -> None:
    tree = tree_of()
    good = branch(tree, "good", 0.9, [True])
    mixed = branch(tree, "mixed", -0.9, [True, False])
    never = [branch(tree, f"never {i}", q, [False]) for i, q in enumerate((-0.3, -0.5))]
    assert sides(pairs_of(tree).groups) == ([good], never)
    tree.nodes[mixed].value_sum = 0.9
    assert sides(pairs_of(tree).groups) == ([good, mixed], never)


def test_two_mixed_steps_stand_on_different_sides() -> None:
    tree = tree_of()
    high = branch(tree, "high", 0.6, [True, False])
    low = branch(tree, "low", -0.6, [True, False])
    assert sides(pairs_of(tree).groups) == ([high], [low])


@pytest.mark.parametrize(("num_right", "num_wrong"), [(1, 6), (6, 1), (1, 3), (3, 1), (3, 3), (1, 1), (2, 6)])
def test_one_side_is_widened_to_4_where_the_other_has_1(num_right: int, num_wrong: int) -> None:
    tree = tree_of()
    right = [branch(tree, f"right {i}", 0.9 - 0.1 * i, [True]) for i in range(num_right)]
    wrong = [branch(tree, f"wrong {i}", -0.9 + 0.1 * i, [False]) for i in range(num_wrong)]
    expected = {
        (1, 6): (right, wrong[:4]), (6, 1): (right[:4], wrong), (1, 3): (right, wrong), (3, 1): (right, wrong),
        (3, 3): (right[:2], wrong[:2]), (1, 1): (right, wrong), (2, 6): (right, wrong[:2]),
    }[num_right, num_wrong]  # fmt: skip
    assert sides(pairs_of(tree).groups) == expected


def test_equal_q_values_fall_to_the_step_found_first() -> None:
    tree = tree_of()
    steps = [branch(tree, f"{i}", 0.5 if i % 2 else -0.5, [bool(i % 2)]) for i in range(6)]
    assert sides(pairs_of(tree).groups) == ([steps[1], steps[3]], [steps[0], steps[2]])


@pytest.mark.parametrize(("margin", "kept"), [(0.5, True), (0.4999, False)])
def test_a_pair_needs_the_q_margin(margin: float, kept: bool) -> None:
    tree = tree_of()
    branch(tree, "chosen", margin, [True])
    branch(tree, "rejected", 0.0, [False])
    made = pairs_of(tree)
    assert (made.report.num_pairs[PairKind.STEP], made.report.dropped[DropReason.MARGIN]) == (kept, not kept)


@pytest.mark.parametrize(("edits", "kept"), [(20, True), (19, False)])
def test_a_pair_needs_the_edit_distance(edits: int, kept: bool) -> None:
    tree = tree_of()
    branch(tree, "a" * 50, 1.0, [True])
    branch(tree, "a" * 30 + "b" * edits + "a" * (20 - edits), -1.0, [False])
    made = pairs_of(tree, config=PairConfig())
    assert (made.report.num_pairs[PairKind.STEP], made.report.dropped[DropReason.EDIT_DISTANCE]) == (
        kept,
        not kept,
    )


def test_continuations_without_a_kept_pair_fall_away() -> None:
    tree = tree_of()
    best, close = branch(tree, "best", 0.9, [True]), branch(tree, "close", 0.0, [True])
    low, lowest = branch(tree, "low", -0.2, [False]), branch(tree, "lowest", -1.0, [False])
    (group,) = [g for g in pairs_of(tree).groups if g.kind is PairKind.STEP]
    ids = [(p.chosen.node_id, p.rejected.node_id) for p in group.preference_pairs()]
    assert ids == [(best, lowest), (best, low), (close, lowest)]
    (group,) = [g for g in pairs_of(tree, config=PairConfig(min_edit_distance=0, min_q_margin=1.5)).groups
                if g.kind is PairKind.STEP]  # fmt: skip
    assert ([c.node_id for c in group.chosen], [c.node_id for c in group.rejected]) == ([best], [lowest])


@pytest.mark.parametrize("verified", [True, False])
def test_trees_all_right_or_all_wrong_give_none(verified: bool) -> None:
    tree = tree_of()
    branch(tree, "one", 0.9, [verified])
    branch(tree, "other", -0.9, [verified, verified])
    made = pairs_of(tree)
    assert made.groups == ()
    assert made.report.dropped == {DropReason.ALL_CORRECT if verified else DropReason.ALL_WRONG: 1}


def test_code_errors_dead_ends_and_unjudged_answers_are_not_wrong_answers() -> None:
    tree = tree_of()
    branch(tree, "right", 0.9, [True])
    add_step(tree, ROOT, f"1 / 0\n{END_OF_STEP}", execution=ExecutionVerdict.ERROR)
    for reason in set(TerminalReason) - {TerminalReason.ANSWERED}:
        dead = add_step(tree, ROOT, f"# {reason}\n{END_OF_STEP}", q=-1.0)
        tree.nodes[dead].terminal = reason
    unjudged = branch(tree, "unjudged", -0.9, [False])
    tree.nodes[unjudged + 2].verified = None
    made = pairs_of(tree)
    assert (made.groups, made.report.dropped) == ((), {DropReason.ALL_CORRECT: 1})
    empty = pairs_of(tree_of())
    assert (empty.groups, empty.report.dropped) == ((), {DropReason.NO_ANSWER: 1})


def test_right_and_wrong_below_one_child_part_there_and_not_above() -> None:
    tree = tree_of()
    step = add_step(tree, ROOT, f"# only\n{END_OF_STEP}")
    right = branch(tree, "right", 0.9, [True], parent=step)
    wrong = branch(tree, "wrong", -0.9, [False], parent=step)
    made = pairs_of(tree)
    assert sides(made.groups, step) == ([right], [wrong])
    assert made.report.dropped == {DropReason.ONE_CHILD: 1}
    assert made.report.depths == {2: 1}


def test_final_pairs_are_the_2_best_correct_and_the_2_worst_wrong_trajectories() -> None:
    tree = tree_of()
    right = [add_solution(tree, [f"print({i})"], "7", q=q)[-1] for i, q in enumerate((0.1, 0.8, 0.5))]
    wrong = [add_solution(tree, [f"x = {i}", "print(x)"], "8", q=q, verified=False)[-1] for i, q in enumerate((0.3, -0.2, -0.9))]  # fmt: skip
    for answers, q in ((right, 1.0), (wrong, -1.0)):
        for node_id in answers:  # the mean over the path keeps its order; an answer's own Q is its reward
            tree.nodes[node_id].value_sum = q
    made = pairs_of(tree)
    (group,) = [g for g in made.groups if g.kind is PairKind.FINAL]
    assert [c.node_id for c in group.chosen] == [right[1], right[2]]
    assert [c.node_id for c in group.rejected] == [wrong[2], wrong[1]]
    assert [pair.q_margin for pair in group.preference_pairs()] == [2.0] * 4
    texts = {t.node_ids[-1]: t.text for t in trajectories(tree)}
    prompt = render_prompt(BARE, tree.question)
    for continuation in (*group.chosen, *group.rejected):
        assert group.prefix_text + continuation.text == prompt + texts[continuation.node_id].removeprefix(
            "<code>\n"
        )
    assert not [g for g in pairs_of(tree, config=PairConfig(num_final=0)).groups if g.kind is PairKind.FINAL]


def test_final_pairs_are_ranked_by_the_mean_q_of_trajectories() -> None:
    tree = grow_tree("p", 3, num_rollouts=24)
    found = trajectories(tree)
    (group,) = [g for g in pairs_of(tree).groups if g.kind is PairKind.FINAL]
    right = sorted((t for t in found if t.verified), key=lambda t: (-t.mean_q, t.node_ids[-1]))
    wrong = sorted((t for t in found if t.verified is False), key=lambda t: (t.mean_q, t.node_ids[-1]))
    assert [c.node_id for c in group.chosen] == [t.node_ids[-1] for t in right[:2]]
    assert [c.node_id for c in group.rejected] == [t.node_ids[-1] for t in wrong[:2]]


def test_what_is_judged_and_too_long_is_left_out_with_its_reason() -> None:
    tree = tree_of()
    branch(tree, "short", 0.9, [True])
    long = branch(tree, "l" * 100, -0.9, [False])
    made = pairs_of(tree, config=PairConfig(min_edit_distance=0, max_tokens=100))
    assert made.groups == ()
    assert made.report.dropped == {DropReason.TOO_LONG: 2}  # the step, and the trajectory that begins with it
    length = len(tree.nodes[long].token_ids)
    made = pairs_of(tree, config=PairConfig(min_edit_distance=0, max_tokens=length))
    assert made.report.num_pairs == {PairKind.STEP: 1}


# ------------------------------------------------------------------------------------------- against the search


def test_fault_8_ids_are_those_that_the_search_showed_and_sampled() -> None:
    checked: set[PairKind] = set()
    for seed in range(12):
        tree = grow(seed=seed, num_rollouts=8)
        for group in pairs_of(tree).groups:
            arguments: dict[str, Any] = {"prompt": render_prompt(BARE, tree.question), "encode": encode}
            before = prefix_of(tree, group.parent, max_output_chars=2000, **arguments)
            assert (group.prefix_ids, group.prefix_text) == (before.token_ids, before.text)
            for continuation in (*group.chosen, *group.rejected):
                node = tree.nodes[continuation.node_id]
                whole = prefix_of(tree, continuation.node_id, max_output_chars=2000, **arguments)
                if group.kind is PairKind.STEP:
                    assert (continuation.text, continuation.token_ids) == (node.text, node.token_ids)
                else:
                    assert group.prefix_ids + continuation.token_ids == whole.token_ids
                    assert group.prefix_text + continuation.text == whole.text
                assert (continuation.q_value, continuation.depth) == (node.q_value, node.depth)
            checked.add(group.kind)
    assert checked == set(PairKind)


def test_steps_of_another_tokenizer_are_encoded_anew_on_demand() -> None:
    tree = tree_of()
    branch(tree, "right", 0.9, [True])
    branch(tree, "wrong", -0.9, [False])
    before = copy.deepcopy(tree)
    for group in pairs_of(tree, config=PairConfig(min_edit_distance=0, retokenize=True)).groups:
        for continuation in (*group.chosen, *group.rejected):
            assert list(continuation.token_ids) == encode(continuation.text)
    assert tree == before


# ------------------------------------------------------------------------------------------- a naive reference


def naive_leads_to(tree: Tree, node_id: int, verified: bool) -> bool:
    """By looking at every descendant."""
    node = tree.nodes[node_id]
    judged = node.terminal is TerminalReason.ANSWERED and node.verified is verified
    return judged or any(naive_leads_to(tree, child, verified) for child in node.children)


def naive_step_pairs(tree: Tree, config: PairConfig) -> set[tuple[int, int, int]]:
    """(parent, chosen, rejected) of every step pair, by the words of the rule."""
    found = set()
    for parent, node in enumerate(tree.nodes):
        if not (naive_leads_to(tree, parent, True) and naive_leads_to(tree, parent, False)):
            continue
        good = [c for c in node.children if naive_leads_to(tree, c, True)]
        bad = [c for c in node.children if naive_leads_to(tree, c, False)]
        chosen: list[int] = []
        rejected: list[int] = []

        def best(children: list[int], taken: list[int]) -> list[int]:
            left = [c for c in children if c not in taken]
            return [max(left, key=lambda c: (tree.nodes[c].q_value, -c))] if left else []

        def worst(children: list[int], taken: list[int]) -> list[int]:
            left = [c for c in children if c not in taken]
            never = [c for c in left if not naive_leads_to(tree, c, True)]
            return [min(never or left, key=lambda c: (tree.nodes[c].q_value, c))] if left else []

        for _ in range(max(config.max_chosen, config.max_rejected)):
            chosen += best(good, chosen + rejected) if len(chosen) < config.max_chosen else []
            rejected += worst(bad, chosen + rejected) if len(rejected) < config.max_rejected else []
        one_chosen, one_rejected = len(chosen) == 1, len(rejected) == 1 and len(chosen) != 1
        while one_chosen and len(rejected) < config.max_widened and (more := worst(bad, chosen + rejected)):
            rejected += more
        while one_rejected and len(chosen) < config.max_widened and (more := best(good, chosen + rejected)):
            chosen += more
        for better, worse in itertools.product(chosen, rejected):
            one, other = tree.nodes[better], tree.nodes[worse]
            if one.q_value - other.q_value >= config.min_q_margin and (
                naive_distance(one.text, other.text) >= config.min_edit_distance
            ):
                found.add((parent, better, worse))
    return found


configs = st.builds(
    PairConfig,
    max_chosen=st.integers(1, 3),
    max_rejected=st.integers(1, 3),
    max_widened=st.integers(3, 5),
    min_q_margin=st.sampled_from([0.0, 0.5, 1.2]),
    min_edit_distance=st.sampled_from([0, 20, 60]),
    num_final=st.integers(0, 3),
)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    num_rollouts=st.integers(1, 12),
    num_candidates=st.integers(2, 6),
    scored=st.booleans(),
    config=configs,
)
def test_pairs_equal_those_of_the_naive_recursive_rule(
    seed: int, num_rollouts: int, num_candidates: int, scored: bool, config: PairConfig
) -> None:
    tree = grow_tree(
        "p", seed, num_rollouts=num_rollouts, num_candidates=num_candidates, max_depth=5, scored=scored
    )
    check_invariants(tree)
    made = pairs_of(tree, config=config, encode=chunk_ids)
    pairs = [pair for group in made.groups for pair in group.preference_pairs()]
    steps = [p for p in pairs if p.kind is PairKind.STEP]
    assert {(p.parent, p.chosen.node_id, p.rejected.node_id) for p in steps} == naive_step_pairs(tree, config)
    assert len(set(steps)) == len(steps)
    num_right, num_wrong = (sum(n.verified is v for n in tree.nodes) for v in (True, False))
    finals = min(num_right, config.num_final) * min(num_wrong, config.num_final)
    assert len(pairs) - len(steps) == finals
    check_report(made)


def check_report(made: PairSet) -> None:
    """Every pair and every tree is counted once."""
    report = made.report
    filters = (DropReason.MARGIN, DropReason.EDIT_DISTANCE)
    assert report.num_pairs[PairKind.STEP] == report.depths.total()
    assert report.margins.total() == report.num_pairs[PairKind.STEP] + sum(report.dropped[r] for r in filters)
    for kind in PairKind:
        groups = [group for group in made.groups if group.kind is kind]
        assert report.num_groups[kind] == len(groups)
        assert report.num_pairs[kind] == sum(len(group.pairs) for group in groups)
        for group in groups:
            assert len(set(group.pairs)) == len(group.pairs)
            assert {at for at, _ in group.pairs} == set(range(len(group.chosen)))
            assert {other for _, other in group.pairs} == set(range(len(group.rejected)))
            ids = [c.node_id for c in (*group.chosen, *group.rejected)]
            assert len(set(ids)) == len(ids), "no step stands on both sides"


@settings(max_examples=20)
@given(seeds=st.lists(st.integers(0, 99), max_size=4))
def test_reports_of_several_trees_add_up(seeds: list[int]) -> None:
    trees = [grow_tree(f"p{i}", seed, num_rollouts=4) for i, seed in enumerate(seeds)]
    made = pairs_of(*trees, encode=chunk_ids)
    check_report(made)
    assert made.groups == tuple(g for tree in trees for g in pairs_of(tree, encode=chunk_ids).groups)
    assert (made.report.num_trees, made.report.num_nodes) == (len(trees), sum(len(t.nodes) for t in trees))
    assert PairReport().common_prefix_share == 0


# ------------------------------------------------------------------------------------------- store and published form


def test_groups_come_back_from_a_store_exactly(tmp_path: Path) -> None:
    groups = pairs_of(
        *(grow_tree(f"p{i}", i) for i in range(8)), encode=chunk_ids, config=PairConfig()
    ).groups
    assert len({group.kind for group in groups}) == 2
    with Store.create(tmp_path).writer(round=2) as writer:
        writer.write_table(Kind.PAIRS, to_table(groups))
    assert tuple(read_groups(tmp_path, 2)) == groups
    assert read_groups(tmp_path, 1) == []


def chain(steps: tuple[Step, ...], tree: Tree, parent: int, q: float, stdout: str) -> int:
    """Nodes for `steps` below `parent`; returns the last."""
    for step in steps:
        shown = stdout if step.kind is StepKind.FINAL_CODE else ""
        node = Node(
            parent=parent, depth=tree.nodes[parent].depth + 1, text=step.text, kind=step.kind, stdout=shown,
            token_ids=tuple(encode(step.text)), visit_count=1, value_sum=q,
        )  # fmt: skip
        tree.nodes.append(node)
        tree.nodes[parent].children.append(len(tree.nodes) - 1)
        parent = len(tree.nodes) - 1
    return parent


def judge(tree: Tree, node_id: int, verified: bool) -> None:
    node = tree.nodes[node_id]
    node.terminal, node.answer, node.verified = TerminalReason.ANSWERED, "?", verified
    node.value_sum = 1.0 if verified else -1.0


def test_published_pairs_have_the_form_of_ours(data_dir: Path) -> None:
    """A tree that holds the two sides of a published pair gives that pair: the same prefix, and one step (or the whole
    solution) on each side; its counts keep to our limits."""
    rows = json.loads((data_dir / "rstar_ppm_pair_examples.json").read_text())
    config = PairConfig()
    kinds = []
    for row in rows:
        counts = (row["pos_count"], row["neg_count"])
        assert max(counts) <= (config.max_widened if min(counts) == 1 else config.max_chosen)
        texts = [row["prompt"] + row[side] for side in ("pos", "neg")]
        right, wrong = (parse_solution(text[text.index("<code>") :]) for text in texts)
        tree = tree_of()
        kind = PairKind.STEP if "<code>" in row["prompt"] else PairKind.FINAL
        kinds.append(kind)
        parent = ROOT
        if kind is PairKind.STEP:
            assert right.steps[:-1] == wrong.steps[:-1], "the prompt holds all but the judged step"
            parent = chain(right.steps[:-1], tree, ROOT, 0.0, "")
            right_id, wrong_id = (
                chain(s.steps[-1:], tree, parent, q, "") for s, q in ((right, 1), (wrong, -1))
            )
            judge(tree, chain((Step(StepKind.ANSWER, "?"),), tree, right_id, 1, ""), True)
            judge(tree, chain((Step(StepKind.ANSWER, "!"),), tree, wrong_id, -1, ""), False)
        else:
            for solution, verified in ((right, True), (wrong, False)):
                last = chain(solution.steps, tree, ROOT, 1.0 if verified else -1.0, solution.output or "")
                if solution.steps[-1].kind is StepKind.ANSWER:
                    judge(tree, last, verified)
        found = [g for g in pairs_of(tree, config=config, format=RSTAR).groups if g.kind is kind]
        if wrong.steps[-1].kind is StepKind.FINAL_CODE:
            assert "Error" in (wrong.output or ""), "published pairs count a code error as wrong; ours do not"
            assert found == []
            continue
        (group,) = found
        (pair,) = group.preference_pairs()
        if kind is PairKind.STEP:
            assert (pair.chosen.text, pair.rejected.text) == (right.steps[-1].text, wrong.steps[-1].text)
        for solution, side in ((right, pair.chosen), (wrong, pair.rejected)):
            ours = pair.prefix_text + side.text
            assert parse_solution(ours[ours.index("<code>") :]) == solution
    assert (kinds.count(PairKind.STEP), kinds.count(PairKind.FINAL)) == (2, 3)
