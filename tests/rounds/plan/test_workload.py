"""The plan's work is that of real searches, and its arithmetic can be followed by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounds.plan.assumptions import Assumptions
from rounds.plan.workload import (
    depth_of,
    expansions,
    policy_training,
    ppm_training,
    round_search,
    search_work,
)
from rounds.recipe import load
from rstar.backends.scripted import ChainWorld, Respond, ScriptedPolicy
from rstar.config import SearchConfig, build
from rstar.errors import ConfigError
from rstar.evaluation import Engines, SearchCounts
from rstar.search import SearchTask, search_trees
from rstar.steps import END_OF_ANSWER
from rstar.tree import Tree
from tests.rstar.fakes import InProcessSandbox, TextJudge


def with_comments_of_their_own(respond: Respond) -> Respond:
    def varied(prefix: str, chance: random.Random) -> str:
        text = respond(prefix, chance)
        return text if text.endswith(END_OF_ANSWER) else f"# Way {chance.randrange(10**6)}\n{text}"

    return varied


async def searched(operations: int, config: SearchConfig, num_trees: int) -> SearchCounts:
    world = ChainWorld(num_operations=operations, slip=0.1, crash=0.1)
    counts = SearchCounts()
    policy = ScriptedPolicy(with_comments_of_their_own(world.respond))
    tasks = [
        SearchTask(tree=Tree(problem_id=p.id, question=p.question), judge=TextJudge(p.answer))
        for p in world.problems(num_trees)
    ]
    engines = Engines(policy=policy, sandbox=InProcessSandbox())
    async for result in search_trees(tasks, engines, config, counts=counts):
        assert not result.fault
    return counts


@pytest.mark.parametrize(
    ("operations", "rollouts", "candidates"), [(3, 8, 5), (4, 16, 8), (5, 24, 6), (3, 8, 16)]
)
def test_expansions_are_those_of_a_real_search(operations: int, rollouts: int, candidates: int) -> None:
    config = SearchConfig(num_rollouts=rollouts, num_candidates=candidates)
    counts = asyncio.run(searched(operations, config, 6))
    depth = operations + 3  # the start, the operations, the print, the answer
    planned = 6 * expansions(rollouts, candidates, depth)
    assert counts.rollouts == 6 * rollouts
    assert counts.expansions == pytest.approx(planned, rel=0.1)


@given(st.floats(1, 16), st.integers(1, 128), st.integers(1, 32))
def test_the_depth_is_found_again_from_the_expansions(depth: float, rollouts: int, candidates: int) -> None:
    found = expansions(rollouts, candidates, depth)
    assert depth_of(found, rollouts, candidates) == pytest.approx(depth)


def test_the_work_of_a_search_follows_from_its_expansions() -> None:
    assumed = Assumptions(
        prompt_tokens=100, steps_per_solution=4, tokens_per_step=10, equal_share=0.2, executed_share=0.5
    )
    work = search_work(3, 1, SearchConfig(num_rollouts=1, num_candidates=5), assumed)
    assert (work.trees, work.rollouts, work.expansions) == (3, 3, 12)
    assert (work.tokens, work.nodes, work.executions) == (600, 48, 24)
    assert work.prefix_tokens == 12 * (100 + 20)
    assert work.scored_tokens == 0
    guided = search_work(3, 1, build(SearchConfig, {"guidance": "ppm", "num_candidates": 5}), assumed)
    assert guided.scored_tokens == 480


def test_what_is_unsolved_is_searched_on_and_then_anew() -> None:
    recipe = load("embedded", 4, ["rounds.4.unsolved={num_rollouts: [16, 32], num_trees: 2}"])
    assumed = Assumptions(coverage={"4": 0.75})
    one = search_work(1, 8, recipe.search, assumed)
    long = search_work(1, 32, recipe.search, assumed)
    work = round_search(recipe, 100, assumed)
    assert work.trees == 125, "a quarter of the problems gets a second tree; taking one on makes none"
    assert work.tokens == pytest.approx(100 * one.tokens + 25 * (long.tokens - one.tokens) + 25 * long.tokens)
    assert work.rollouts == 100 * 8 + 25 * 24 + 25 * 32


def test_what_is_trained_on_follows_from_what_is_solved() -> None:
    recipe = load("embedded", 2, ["sft.epochs=3", "ppm.epochs=2", "sft_set.num_per_problem=1"])
    assumed = Assumptions(
        prompt_tokens=10,
        steps_per_solution=4,
        tokens_per_step=5,
        coverage={"2": 0.5},
        pairs_per_tree=7,
        tokens_per_pair=11,
    )
    policy = policy_training(recipe, 100, assumed)
    assert (policy.samples, policy.tokens) == (150, 150 * 30)
    ppm = ppm_training(recipe, 100, assumed)
    assert recipe.earlier_pairs
    assert (ppm.samples, ppm.tokens) == (100 * 7 * 2 * 2, 100 * 7 * 2 * 2 * 11)
    alone = ppm_training(dataclasses.replace(recipe, earlier_pairs=False), 100, assumed)
    assert alone.samples == ppm.samples / 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"equal_share": 1.5}, "equal_share is 1.5; it must be a share in"),
        ({"utilisation": 0}, "utilisation is 0.0; it must be a share in"),
        ({"tokens_per_step": 0}, "tokens_per_step is 0.0; it must be above 0"),
        ({"coverage": {"1": 2}}, "coverage.1 is 2.0; it must be a share"),
        ({"tokens_per_stp": 1}, "unknown key tokens_per_stp; did you mean tokens_per_step"),
    ],
)
def test_wrong_assumptions_are_one_line(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        build(Assumptions, settings)
