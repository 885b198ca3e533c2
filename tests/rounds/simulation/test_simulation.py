"""Simulated searches take what can be worked out by hand, lose nothing, and agree with each other."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounds.simulation.cluster import ClusterConfig, Speed, measure_speed, simulate_cluster
from rounds.simulation.search import Machines, ServiceTimes, simulate
from rounds.simulation.shapes import Expansion, Shape, mean_work, random_shape, shape_of
from rounds.simulation.stations import StepTime
from tests.rstar.trees import grow

TIMES = ServiceTimes(
    step=StepTime(base_s=0.02, row_s=0.0005), execution_s=0.01, loop_s=0.001, write_s=0.005, prefix_tokens=8
)
ONE = Speed((1, 2), (1.0, 1.0))


def shapes(count: int, seed: int = 0, *, guided: bool = False) -> list[Shape]:
    chance = random.Random(seed)
    return [
        random_shape(
            chance,
            num_rollouts=3,
            num_candidates=4,
            depth=4.0,
            tokens_per_step=20,
            executed_share=0.8,
            guided=guided,
        )
        for _ in range(count)
    ]


def test_a_tree_alone_takes_the_sum_of_its_parts() -> None:
    shape = (Expansion((10, 4), 2, 14), Expansion((5,), 0, 0))
    times = dataclasses.replace(TIMES, score_token_s=0.1)
    outcome = simulate([shape], Machines(sandbox_servers=1), times)
    decoding = 4 * 0.021 + 6 * 0.0205 + 5 * 0.0205 + 2 * 8 * 0.0005
    assert outcome.tree_s[0] == pytest.approx(decoding + 2 * 0.001 + 2 * 0.01 + 14 * 0.1)
    assert outcome.makespan_s == pytest.approx(outcome.tree_s[0] + 0.005), "the writer comes last"


def test_a_program_that_uses_up_its_time_holds_its_tree_alone() -> None:
    slow, quick = Expansion((5,), 2, timeouts=1), Expansion((5,), 2)
    times = dataclasses.replace(TIMES, timeout_s=4.0)
    outcome = simulate([(slow,), (quick,)], Machines(), times)
    assert outcome.tree_s[0] - outcome.tree_s[1] == pytest.approx(4.0 - times.execution_s, rel=0.01)


def test_shapes_are_what_a_tree_was_made_of() -> None:
    tree = grow(seed=3)
    shape = shape_of(tree)
    assert sum(sum(one.token_counts) for one in shape) == tree.num_tokens
    assert sum(one.executions for one in shape) == tree.num_executions
    assert len(shape) == sum(bool(node.children) for node in tree.nodes)
    assert sum(one.scored_tokens for one in shape_of(tree, guided=True)) > 0


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 8), st.booleans())
def test_every_tree_ends_and_nothing_is_used_more_than_there_is(
    num_trees: int, num_workers: int, in_flight: int, on_cores: bool
) -> None:
    searched = shapes(num_trees)
    machines = Machines(
        num_workers=num_workers, trees_in_flight=in_flight, cores=2, engines_on_cores=on_cores, max_rows=16
    )
    outcome = simulate(searched, machines, TIMES)
    _, tokens = mean_work(searched)
    assert outcome.tokens_per_s * outcome.makespan_s == pytest.approx(tokens * num_trees)
    assert min(outcome.tree_s) > 0
    assert max(outcome.tree_s) <= outcome.makespan_s
    for name in ("engine_utilisation", "core_utilisation", "loop_utilisation", "writer_utilisation"):
        assert 0 <= getattr(outcome, name) <= 1 + 1e-9, name
    assert outcome.mean_rows <= 16 + 1e-9
    assert simulate(searched, machines, TIMES) == outcome, "nothing is left to chance"


def test_more_trees_at_once_and_more_workers_are_faster() -> None:
    searched = shapes(40)
    alone = simulate(searched, Machines(trees_in_flight=1), TIMES).makespan_s
    many = simulate(searched, Machines(trees_in_flight=16), TIMES).makespan_s
    more = simulate(searched, Machines(trees_in_flight=16, num_workers=2), TIMES).makespan_s
    assert alone > 3 * many > 3 * more


@pytest.mark.parametrize(("num_workers", "in_flight"), [(1, 4), (1, 16), (2, 8)])
def test_tree_by_tree_agrees_with_expansion_by_expansion(num_workers: int, in_flight: int) -> None:
    searched = shapes(150)
    speed, alone = measure_speed(searched, Machines(), TIMES, (1, 2, 4, 8, 16))
    detailed = simulate(searched, Machines(num_workers=num_workers, trees_in_flight=in_flight), TIMES)
    config = ClusterConfig(num_workers=num_workers, trees_in_flight=in_flight, write_s=TIMES.write_s)
    coarse = simulate_cluster([(seconds,) for seconds in alone], speed, config)
    assert coarse.makespan_s == pytest.approx(detailed.makespan_s, rel=0.1)
    assert coarse.trees == 150


def test_speeds_between_those_simulated_are_interpolated_in_the_joint_speed() -> None:
    speed = Speed((1, 4), (1.0, 0.5))
    assert [speed(n) * n for n in (1, 2, 3, 4, 8)] == pytest.approx([1, 4 / 3, 5 / 3, 2, 2])
    assert speed.capacity == 2.0


def cluster(**own: Any) -> ClusterConfig:
    return dataclasses.replace(ClusterConfig(num_workers=1, trees_in_flight=2, write_s=0.0), **own)


def test_the_longest_first_leaves_no_long_tail() -> None:
    jobs = [(1.0,)] * 6 + [(4.0,)]
    assert simulate_cluster(jobs, ONE, cluster()).makespan_s == 7.0
    assert simulate_cluster(jobs, ONE, cluster(longest_first=True)).makespan_s == 5.0


def test_without_barriers_a_further_pass_fills_the_tail_of_the_one_before() -> None:
    jobs = [(1.0, 3.0), (4.0,)]
    assert simulate_cluster(jobs, ONE, cluster()).makespan_s == 7.0
    outcome = simulate_cluster(jobs, ONE, cluster(barriers=False))
    assert (outcome.makespan_s, outcome.utilisation) == (4.0, 1.0)
    assert outcome.trees == 3


def test_a_slow_writer_ends_last() -> None:
    outcome = simulate_cluster([(1.0,)] * 10, ONE, cluster(write_s=2.0))
    assert outcome.makespan_s == 5.0
    assert outcome.written_s == 21.0
    assert outcome.writer_utilisation == pytest.approx(20 / 21)


@given(
    st.lists(st.lists(st.floats(0.5, 4), min_size=1, max_size=3).map(tuple), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_all_passes_of_all_problems_are_searched(
    jobs: list[tuple[float, ...]], longest_first: bool, barriers: bool
) -> None:
    config = cluster(num_workers=3, longest_first=longest_first, barriers=barriers)
    outcome = simulate_cluster(jobs, ONE, config)
    assert outcome.trees == sum(map(len, jobs))
    assert 0 <= outcome.utilisation <= 1 + 1e-9
    work = sum(map(sum, jobs))
    assert work / 6 - 1e-9 <= outcome.makespan_s <= work + 1e-9
