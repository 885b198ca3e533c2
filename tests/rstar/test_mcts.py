"""Select, expand, backup: against a naive search, by hand, and with several rollouts in flight."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar import mcts
from rstar.config import Guidance, SearchConfig, Selection, build
from rstar.errors import RstarError
from rstar.mcts import Evaluated, backup, expand, give_up, go_on, leave, select, selection_score
from rstar.protocols import ExecutionVerdict
from rstar.search import TreeSearch
from rstar.tree import ROOT, Node, TerminalReason, Tree, check_invariants
from tests.rstar import golden_trees
from tests.rstar.fakes import InProcessSandbox, TextJudge
from tests.rstar.naive_search import (
    invariants_after_every_expansion,
    replay,
    value_by_score,
    value_by_truth,
)
from tests.rstar.virtual_clock import run_on_virtual_clock
from tests.rstar.worlds import (
    Faults,
    FaultyJudge,
    FaultyPolicy,
    FaultySandbox,
    FaultyValue,
    RandomWorld,
    Slow,
    SlowPolicy,
    SlowSandbox,
    coarse_value,
    engines,
    new_tree,
    search_one,
)

worlds = st.builds(
    RandomWorld,
    final=st.floats(0, 0.6),
    crash=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    nonsense=st.sampled_from([0.0, 0.1]),
    own_output=st.sampled_from([0.0, 0.05]),
    variants=st.integers(1, 5),
)
configs = st.builds(
    SearchConfig,
    num_rollouts=st.integers(1, 10),
    num_candidates=st.integers(1, 5),
    max_depth=st.integers(1, 5),
    guidance=st.sampled_from(Guidance),
    selection=st.sampled_from(Selection),
    c_uct=st.sampled_from([0.0, 0.5, 2.0]),
    c_puct=st.sampled_from([0.0, 0.5, 2.0]),
    unvisited_score=st.sampled_from([math.inf, 0.0, -1.0]),
)
seeds = st.integers(0, 2**32)


# --- against the naive search ---


@given(worlds, configs, seeds)
def test_every_choice_and_every_number_is_the_naive_searchs(
    world: RandomWorld, config: SearchConfig, seed: int
) -> None:
    tree = new_tree(seed=seed)
    with invariants_after_every_expansion():
        search_one(tree, engines(world.respond, value=coarse_value), config)
    check_invariants(tree)
    replay(tree, config, value_by_truth)
    assert tree.num_rollouts == config.num_rollouts or tree.exhausted


@given(worlds, configs, seeds)
def test_without_a_judge_the_value_models_scores_of_answers_are_backed_up(
    world: RandomWorld, config: SearchConfig, seed: int
) -> None:
    tree = new_tree(seed=seed)
    with invariants_after_every_expansion():
        search_one(tree, engines(world.respond, value=coarse_value), config, judge=TextJudge(None))
    check_invariants(tree)
    replay(tree, config, value_by_score)
    assert not any(node.verified is not None for node in tree.nodes)


@given(worlds, configs, seeds, st.integers(2, 5), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=50)
def test_with_several_rollouts_in_flight_no_node_is_expanded_twice_and_all_adds_up(
    world: RandomWorld, config: SearchConfig, seed: int, lanes: int, virtual_loss: float
) -> None:
    config = SearchConfig(
        num_rollouts=config.num_rollouts, num_candidates=config.num_candidates, max_depth=config.max_depth,
        guidance=config.guidance, selection=config.selection, c_uct=config.c_uct, c_puct=config.c_puct,
        unvisited_score=config.unvisited_score, parallel_rollouts=lanes, virtual_loss=virtual_loss,
    )  # fmt: skip
    policy, sandbox = SlowPolicy(world.respond, Slow(seed, 2.0)), SlowSandbox(Slow(seed + 1, 1.0))
    tree = new_tree(seed=seed)
    search = TreeSearch(tree, engines(policy, sandbox=sandbox, value=coarse_value), TextJudge("1"), config)
    with invariants_after_every_expansion(most_in_flight=lanes):
        run_on_virtual_clock(search.run())
    check_invariants(tree)  # at rest: nothing in flight
    expansions = Counter((node.parent, node.rollout) for node in tree.nodes[1:])
    assert len({parent for parent, _ in expansions}) == len(expansions)
    assert tree.num_rollouts == config.num_rollouts or tree.exhausted


@given(
    worlds,
    configs,
    seeds,
    st.sets(st.integers(1, 60), max_size=12),
    st.sets(st.integers(1, 60), max_size=12),
    st.sets(st.integers(1, 60), max_size=12),
    st.sets(st.integers(1, 60), max_size=12),
    st.integers(1, 3),
)
def test_fault_5_failing_parts_leave_visits_and_values_right(
    world: RandomWorld,
    config: SearchConfig,
    seed: int,
    policy_failures: set[int],
    sandbox_failures: set[int],
    judge_failures: set[int],
    value_failures: set[int],
    lanes: int,
) -> None:
    config = SearchConfig(
        num_rollouts=config.num_rollouts, num_candidates=config.num_candidates, max_depth=config.max_depth,
        guidance=config.guidance, parallel_rollouts=lanes,
    )  # fmt: skip
    faults = [Faults(f) for f in (policy_failures, sandbox_failures, judge_failures, value_failures)]
    parts = engines(
        FaultyPolicy(world.respond, faults[0]),
        sandbox=FaultySandbox(faults[1]),
        value=FaultyValue(coarse_value, faults[3]),
    )
    tree, undisturbed = new_tree(seed=seed), new_tree(seed=seed)
    search = TreeSearch(tree, parts, FaultyJudge("1", faults[2]), config)
    parked = False
    with invariants_after_every_expansion(most_in_flight=lanes):
        try:
            run_on_virtual_clock(search.run())
        except RstarError:
            parked = True
    check_invariants(tree)
    failed = sum(len([n for n in f._failing if n <= f.calls]) for f in faults)
    assert search.counts.retries <= failed
    assert parked == (search.counts.retries < failed)
    if not parked and lanes == 1:
        search_one(undisturbed, engines(world.respond, value=coarse_value), config)
        assert tree == undisturbed


@given(worlds, configs, seeds, st.integers(1, 40), st.integers(1, 3))
@settings(max_examples=50)
def test_fault_5_cancelling_at_any_moment_leaves_a_tree_at_rest(
    world: RandomWorld, config: SearchConfig, seed: int, moment: int, lanes: int
) -> None:
    config = SearchConfig(
        num_rollouts=config.num_rollouts, num_candidates=config.num_candidates, max_depth=config.max_depth,
        guidance=config.guidance, parallel_rollouts=lanes,
    )  # fmt: skip
    tree = new_tree(seed=seed)
    sandbox = FaultySandbox(Faults(()))
    parts = engines(FaultyPolicy(world.respond, Faults(())), sandbox=sandbox, value=coarse_value)

    async def cancelled() -> None:
        running = asyncio.ensure_future(TreeSearch(tree, parts, FaultyJudge("1", Faults(())), config).run())
        for _ in range(moment):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with invariants_after_every_expansion(most_in_flight=lanes):
        asyncio.run(cancelled())
    check_invariants(tree)
    assert sandbox.released == [tree.name] * len(sandbox.released)


@given(worlds, configs, seeds)
@settings(max_examples=50)
def test_failed_candidates_are_never_selected_never_valued_and_never_grown(
    world: RandomWorld, config: SearchConfig, seed: int
) -> None:
    tree = search_one(new_tree(seed=seed), engines(world.respond, value=coarse_value), config)
    for node_id, node in enumerate(tree.nodes):
        if not node.live:
            assert (node.visit_count, node.value_sum, node.children) == (0, 0.0, [])
            assert node.initial_value is None
            assert node_id not in tree.live_children(node.parent)
            assert node.error
        if node.terminal is not None:
            assert tree.live_children(node_id) == []


# --- by hand ---


def tree_of(*values: float | None, terminal: bool = False, logprobs: tuple[float, ...] = ()) -> Tree:
    """A root with one child per value: terminal with that reward, or open with that score (None: without)."""
    tree = new_tree()
    reason = TerminalReason.ANSWERED if terminal else None
    expand(
        tree,
        ROOT,
        [
            Evaluated(
                node=Node(parent=ROOT, depth=1, text=str(i), terminal=reason,
                          mean_logprob=logprobs[i] if logprobs else 0.0),
                value=value,
            )
            for i, value in enumerate(values)
        ],
    )  # fmt: skip
    return tree


def visit(tree: Tree, node_id: int, *values: float) -> None:
    """As if rollouts had ended below `node_id` with these values."""
    for value in values:
        backup(tree, node_id, value)


def chosen(tree: Tree, config: SearchConfig, node_id: int = ROOT) -> set[int]:
    """What `go_on` chooses over many tie-breaks."""
    found = set()
    for seed in range(20):
        child = go_on(tree, node_id, config, random.Random(seed))
        assert child is not None
        tree.nodes[child].in_flight -= 1
        found.add(child)
    return found


def test_a_one_step_bandit_is_exhausted_at_once_with_the_mean_reward_at_its_root() -> None:
    tree = tree_of(1.0, -1.0, 1.0, -1.0, terminal=True)
    assert (tree.root.visit_count, tree.root.value_sum, tree.root.q_value) == (4, 0.0, 0.0)
    assert [tree.nodes[i].q_value for i in tree.root.children] == [1.0, -1.0, 1.0, -1.0]
    assert tree.exhausted
    assert select(tree, SearchConfig(), random.Random(0)) is None
    check_invariants(tree)


def test_two_arms_by_hand_uct_goes_where_the_numbers_say() -> None:
    # N = 4 at the root. Child 1: N = 3, Q = 1/3; child 2: N = 1, Q = -1. With c = 2:
    # 1/3 + 2 sqrt(ln 4 / 3) = 1.6929;  -1 + 2 sqrt(ln 4 / 1) = 1.3548.
    tree = tree_of(None, None)
    visit(tree, 1, 1, 1, -1)
    visit(tree, 2, -1)
    config = SearchConfig(c_uct=2.0)
    assert selection_score(tree, 1, config) == pytest.approx(1.69291, abs=1e-4)
    assert selection_score(tree, 2, config) == pytest.approx(1.35482, abs=1e-4)
    assert chosen(tree, config) == {1}
    # With c = 3 exploration wins: 1/3 + 3 * 0.67979 = 2.3727 < -1 + 3 * 1.17741 = 2.5322.
    assert chosen(tree, SearchConfig(c_uct=3.0)) == {2}
    # One more loss at child 1 (N = 4, Q = 0; root N = 5): 0 + 2 sqrt(ln 5 / 4) = 1.2686 < -1 + 2 sqrt(ln 5) = 1.5373.
    visit(tree, 1, -1)
    assert selection_score(tree, 1, config) == pytest.approx(1.26864, abs=1e-4)
    assert selection_score(tree, 2, config) == pytest.approx(1.53727, abs=1e-4)
    assert chosen(tree, config) == {2}


def test_two_arms_by_hand_puct_weighs_the_prior() -> None:
    # Priors 0.2 and 0.6, nothing visited: 2 * 0.2 * 1 = 0.4 < 2 * 0.6 * 1 = 1.2.
    tree = tree_of(None, None, logprobs=(math.log(0.2), math.log(0.6)))
    config = SearchConfig(selection=Selection.PUCT, c_puct=2.0)
    assert selection_score(tree, 1, config) == pytest.approx(0.4)
    assert selection_score(tree, 2, config) == pytest.approx(1.2)
    assert chosen(tree, config) == {2}
    # Two losses there (N = 2, Q = -1, root N = 2): -1 + 2 * 0.6 * sqrt 2 / 3 = -0.4343; child 1: 2 * 0.2 * sqrt 2 = 0.5657.
    visit(tree, 2, -1, -1)
    assert selection_score(tree, 2, config) == pytest.approx(-0.43431, abs=1e-5)
    assert selection_score(tree, 1, config) == pytest.approx(0.56569, abs=1e-5)
    assert chosen(tree, config) == {1}


def test_unvisited_score_decides_whether_every_child_is_tried() -> None:
    tree = tree_of(None, None, None)
    visit(tree, 1, 1)
    assert chosen(tree, SearchConfig(unvisited_score=math.inf)) == {2, 3}
    assert chosen(tree, SearchConfig(unvisited_score=0.0)) == {1}  # the released code: 1 + 0 beats 0
    assert chosen(tree, SearchConfig(unvisited_score=1.0)) == {1, 2, 3}


def test_the_first_choice_under_ppm_guidance_is_the_highest_score() -> None:
    tree = tree_of(-0.25, 0.75, 0.5)
    assert chosen(tree, SearchConfig(guidance=Guidance.PPM)) == {2}
    assert [tree.nodes[i].visit_count for i in (1, 2, 3)] == [1, 1, 1]
    assert (tree.root.visit_count, tree.root.value_sum) == (0, 0.0)  # first values are not backed up


def test_two_leaf_tree_by_hand_from_the_first_score_to_exhaustion() -> None:
    """Root with two scored steps (0.5 and 0.25); below each one answer: wrong below the first, right below the second."""
    config = SearchConfig(guidance=Guidance.PPM, c_uct=2.0)
    tree = tree_of(0.5, 0.25)
    chooser = random.Random(0)

    def answer_below(parent: int, reward: float) -> None:
        node = Node(parent=parent, depth=2, terminal=TerminalReason.ANSWERED)
        expand(tree, parent, [Evaluated(node=node, value=reward)])

    assert select(tree, config, chooser) == 1  # ln 1 = 0: the scores alone decide
    answer_below(1, -1.0)
    leave(tree, 1)
    assert (tree.nodes[1].visit_count, tree.nodes[1].value_sum, tree.nodes[1].q_value) == (2, -0.5, -0.25)
    assert (tree.root.visit_count, tree.root.value_sum) == (1, -1.0)
    assert tree.nodes[1].closed
    assert not tree.exhausted
    assert select(tree, config, chooser) == 2  # the first is exhausted
    answer_below(2, 1.0)
    leave(tree, 2)
    assert (tree.nodes[2].visit_count, tree.nodes[2].value_sum, tree.nodes[2].q_value) == (2, 1.25, 0.625)
    assert (tree.root.visit_count, tree.root.value_sum, tree.root.q_value) == (2, 0.0, 0.0)
    assert tree.exhausted
    check_invariants(tree)


def test_a_dead_end_is_closed_backed_up_and_closes_all_above_it() -> None:
    tree = tree_of(None)
    expand(tree, 1, [Evaluated(node=Node(parent=1, depth=2))])
    failed = Node(
        parent=2, depth=3, execution=ExecutionVerdict.ERROR, error="ZeroDivisionError: division by zero"
    )
    assert expand(tree, 2, [Evaluated(node=failed)]) == [3]
    assert tree.nodes[2].terminal is TerminalReason.CODE_ERRORS
    assert [node.visit_count for node in tree.nodes] == [1, 1, 1, 0]
    assert [node.value_sum for node in tree.nodes] == [-1.0, -1.0, -1.0, 0.0]
    assert [node.closed for node in tree.nodes] == [True, True, True, False]
    check_invariants(tree)


def test_a_node_given_up_is_terminal_and_backed_up() -> None:
    tree = tree_of(0.5, 0.25)
    give_up(tree, 1, TerminalReason.CONTEXT_OVERFLOW)
    assert (tree.nodes[1].visit_count, tree.nodes[1].value_sum) == (2, -0.5)
    assert (tree.root.visit_count, tree.root.value_sum) == (1, -1.0)
    assert not tree.exhausted
    check_invariants(tree)
    with pytest.raises(AssertionError, match="can go on below"):
        give_up(tree, ROOT, TerminalReason.CONTEXT_OVERFLOW)


def test_our_own_misuse_is_an_assertion() -> None:
    tree = tree_of(None)
    with pytest.raises(AssertionError, match="expanded once"):
        expand(tree, ROOT, [Evaluated(node=Node(parent=ROOT, depth=1))])
    with pytest.raises(AssertionError, match="has candidates"):
        expand(tree, 1, [])
    with pytest.raises(AssertionError, match=r"outside \[-1, 1\]"):
        backup(tree, 1, 1.5)
    with pytest.raises(AssertionError, match="has a value"):
        expand(tree, 1, [Evaluated(node=Node(parent=1, depth=2, terminal=TerminalReason.MAX_DEPTH))])


def test_ties_fall_to_the_chooser_and_to_every_child_in_turn() -> None:
    assert chosen(tree_of(None, None, None), SearchConfig()) == {1, 2, 3}


# --- several rollouts in flight, by hand ---


def test_virtual_loss_by_hand_sends_the_next_rollout_elsewhere() -> None:
    # Root N = 2, both children N = 1, child 1 Q = 1, child 2 Q = 0.5 (as if), c = 1.
    tree = tree_of(None, None)
    visit(tree, 1, 1.0)
    visit(tree, 2, 0.5)
    config = SearchConfig(c_uct=1.0, virtual_loss=1.0, parallel_rollouts=2)
    assert select(tree, config, random.Random(0)) == 1  # 1 + sqrt(ln 2) beats 0.5 + sqrt(ln 2)
    assert [node.in_flight for node in tree.nodes] == [1, 1, 0]
    # For the second: child 1 has N = 2, W = 0 and the root N = 3: 0 + sqrt(ln 3 / 2) = 0.7412; child 2: 0.5 + sqrt(ln 3).
    tree.root.in_flight += 1
    assert selection_score(tree, 1, config) == pytest.approx(0.74115, abs=1e-5)
    assert selection_score(tree, 2, config) == pytest.approx(0.5 + 1.04815, abs=1e-5)
    tree.root.in_flight -= 1
    assert select(tree, config, random.Random(0), busy={1}) == 2
    leave(tree, 1)
    leave(tree, 2)
    assert all(node.in_flight == 0 for node in tree.nodes)


def test_wu_uct_by_hand_counts_the_unobserved_without_a_loss() -> None:
    # As above with virtual_loss 0: child 1 keeps Q = 1 and competes with N + O = 2: 1 + sqrt(ln 3 / 2) = 1.7412,
    # child 2 with 0.5 + sqrt(ln 3) = 1.5481; with c = 2: 2.4823 against 2.5963.
    tree = tree_of(None, None)
    visit(tree, 1, 1.0)
    visit(tree, 2, 0.5)
    exploit = SearchConfig(c_uct=1.0, virtual_loss=0.0)
    assert select(tree, exploit, random.Random(0)) == 1
    tree.root.in_flight += 1
    assert selection_score(tree, 1, exploit) == pytest.approx(1.74115, abs=1e-5)
    assert selection_score(tree, 2, exploit) == pytest.approx(1.54815, abs=1e-5)
    explore = SearchConfig(c_uct=2.0, virtual_loss=0.0)
    assert selection_score(tree, 1, explore) == pytest.approx(2.48230, abs=1e-5)
    assert selection_score(tree, 2, explore) == pytest.approx(2.59630, abs=1e-5)
    tree.root.in_flight -= 1
    assert select(tree, explore, random.Random(0)) == 2
    leave(tree, 1)
    leave(tree, 2)


def test_an_unvisited_child_in_flight_is_no_longer_unvisited() -> None:
    tree = tree_of(None, None)
    config = SearchConfig(unvisited_score=math.inf)
    first = select(tree, config, random.Random(0))
    second = select(tree, config, random.Random(0))
    assert {first, second} == {1, 2}
    assert tree.root.in_flight == 2


def test_a_busy_node_is_passed_over_for_the_second_best_and_the_path_tried_is_unmarked() -> None:
    tree = tree_of(None, None)
    visit(tree, 1, 1.0)
    visit(tree, 2, -1.0)
    config = SearchConfig(c_uct=0.0)
    assert select(tree, config, random.Random(0), busy={1}) == 2
    assert [node.in_flight for node in tree.nodes] == [1, 0, 1]
    assert select(tree, config, random.Random(0), busy={1, 2}) is None
    assert [node.in_flight for node in tree.nodes] == [1, 0, 1]


def test_more_rollouts_in_flight_take_less_time_when_answers_are_slow() -> None:
    world = RandomWorld(final=0.2, crash=0.0, nonsense=0.0, own_output=0.0, variants=8)

    def seconds(lanes: int) -> float:
        class OneSecond(Slow):
            async def pause(self) -> None:
                await asyncio.sleep(1)

        config = SearchConfig(num_rollouts=16, num_candidates=4, max_depth=6, parallel_rollouts=lanes)
        policy = SlowPolicy(world.respond, OneSecond(0, 1))
        tree = new_tree(seed=5)
        search = TreeSearch(tree, engines(policy, sandbox=InProcessSandbox()), TextJudge("1"), config)
        _, elapsed_s = run_on_virtual_clock(search.run())
        assert tree.num_rollouts == 16
        check_invariants(tree)
        return elapsed_s

    one, four = seconds(1), seconds(4)
    assert four < one / 2


def test_the_public_names() -> None:
    public = {
        name
        for name in vars(mcts)
        if not name.startswith("_") and getattr(vars(mcts)[name], "__module__", "") == mcts.__name__
    }
    assert public == {
        "Evaluated",
        "backup",
        "expand",
        "give_up",
        "go_on",
        "leave",
        "select",
        "selection_score",
    }


# --- golden trees ---


@pytest.mark.parametrize("path", sorted(golden_trees.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_golden_trees_grow_again_exactly(path: Path) -> None:
    golden = json.loads(path.read_text())
    settings = golden["settings"]
    tree = golden_trees.grow(settings)
    assert golden_trees.plain(tree) == golden["tree"], "see golden_trees.py for the way to write them anew"
    assert golden_trees.render(golden) == path.read_text()
    check_invariants(tree)
    if settings["reference_answer"] is not None or settings["value_model"]:
        value = value_by_truth if settings["reference_answer"] is not None else value_by_score
        replay(tree, build(SearchConfig, settings["config"]), value)


def test_golden_trees_cover_every_rule() -> None:
    goldens = {path.stem for path in golden_trees.FOLDER.glob("*.json")}
    assert goldens == {
        "uct", "puct", "uct_unvisited_0", "ppm", "inference_ppm", "inference_majority", "code_errors", "every_ending",
    }  # fmt: skip
