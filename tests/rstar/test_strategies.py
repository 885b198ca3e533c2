"""Sampling and beam search on one tree, against naive ones; the running vote against simulation."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.answers import decided
from rstar.backends.scripted import ChainWorld, ScriptedPolicy, ScriptedValue
from rstar.config import Guidance, SearchConfig
from rstar.errors import ConfigError
from rstar.evaluation import Engines
from rstar.search import TreeSearch
from rstar.selection import Method, Vote, ranking
from rstar.strategies import Strategy, beam, configured, expand_level, sample
from rstar.tree import ROOT, TerminalReason, Tree, check_invariants
from tests.rstar.fakes import InProcessSandbox, TextJudge

WORLD = ChainWorld(num_operations=3)
QUESTION = WORLD.problems(1)[0].question
CONFIG = SearchConfig(num_candidates=3)


def liking(text: str) -> float:
    """A value for a text that nothing else decides."""
    return random.Random(text).uniform(-1, 1)


def search(
    *, seed: int = 0, config: SearchConfig = CONFIG, policy: ScriptedPolicy | None = None
) -> TreeSearch:
    engines = Engines(
        policy=policy or WORLD.policy(), sandbox=InProcessSandbox(), value=ScriptedValue(liking)
    )
    tree = Tree(problem_id="q", question=QUESTION, seed=seed)
    return TreeSearch(tree, engines, TextJudge(None), config)


@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_every_sample_ends_once_as_a_failure_or_a_terminal_node(seed: int, count: int) -> None:
    searched = search(seed=seed)
    asyncio.run(sample(searched, count))
    tree = searched.tree
    check_invariants(tree)
    ends = [
        node for node in tree.nodes[1:]
        if not node.live or (node.terminal is not None and node.terminal is not TerminalReason.CODE_ERRORS)
    ]  # fmt: skip
    assert sum(node.multiplicity for node in ends) == count
    for node_id, node in enumerate(tree.nodes):
        if node.children:
            sampled = sum(tree.nodes[child].multiplicity for child in node.children)
            assert sampled == (count if node_id == ROOT else node.multiplicity)


def test_samples_have_the_distribution_of_single_ones() -> None:
    """Answers of 60 trees of 20 samples, and of 1,200 trees of one: the same frequencies within five standard errors."""

    def answers(count: int, trees: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for seed in range(trees):
            searched = search(seed=seed + 1000 * count)
            asyncio.run(sample(searched, count))
            for node in searched.tree.nodes:
                if node.terminal is TerminalReason.ANSWERED:
                    found[node.answer or ""] += node.multiplicity
        return found

    together, alone = answers(20, 60), answers(1, 1200)
    for answer in {*together, *alone}:
        one, other = together[answer] / 1200, alone[answer] / 1200
        assert abs(one - other) < 5 * (2 * max(one, other) / 1200) ** 0.5 + 0.01


def naive_beam(seed: int, width: int) -> list[tuple[str, ...]]:
    """Whole prefixes as lists of texts, each level sorted anew; the finished ones compete with the others."""
    guided = dataclasses.replace(CONFIG, guidance=Guidance.PPM)
    searched = search(seed=seed, config=guided)

    def path(node_id: int) -> tuple[str, ...]:
        return tuple(searched.tree.nodes[step].text for step in searched.tree.path(node_id))

    async def run() -> list[tuple[str, ...]]:
        beam_of: list[tuple[float, int]] = [(0.0, ROOT)]
        level = 0
        while open_ones := [n for _, n in beam_of if not searched.tree.nodes[n].closed]:
            finished = [(s, n) for s, n in beam_of if searched.tree.nodes[n].terminal is not None]
            finished = [(s, n) for s, n in finished if searched.tree.nodes[n].answer is not None]
            await expand_level(searched, dict.fromkeys(open_ones, CONFIG.num_candidates), level=level)
            new = [
                (searched.tree.nodes[child].initial_value or 0.0, child)
                for parent in open_ones
                for child in searched.tree.nodes[parent].children
                if searched.tree.nodes[child].initial_value is not None
            ]
            beam_of = sorted(finished + new, key=lambda pair: -pair[0])[:width]
            level += 1
        return sorted(path(n) for _, n in beam_of)

    return asyncio.run(run())


@given(seed=st.integers(0, 300), width=st.integers(1, 4))
def test_a_beam_keeps_the_best_scored_prefixes_of_every_level(seed: int, width: int) -> None:
    guided = dataclasses.replace(CONFIG, guidance=Guidance.PPM)
    searched = search(seed=seed, config=guided)
    kept = asyncio.run(beam(searched, width))
    tree = searched.tree
    check_invariants(tree)
    assert tree.num_rollouts == width
    paths = sorted(tuple(tree.nodes[step].text for step in tree.path(node_id)) for node_id in kept)
    assert paths == naive_beam(seed, width)


def test_a_token_budget_ends_sampling_between_two_levels() -> None:
    searched = search(config=dataclasses.replace(CONFIG, max_tree_tokens=10))
    asyncio.run(sample(searched, 5))
    assert {node.depth for node in searched.tree.nodes} == {0, 1}


def test_nothing_is_left_in_the_sandbox() -> None:
    from rstar.strategies import follow

    for strategy in Strategy:
        config = configured(strategy, CONFIG, has_value=True)
        searched = search(config=config)
        asyncio.run(follow(strategy, searched))
        sandbox: Any = searched.engines.sandbox
        assert sandbox.released[-1] == searched.tree.name


def test_strategies_decide_who_guides() -> None:
    assert configured(Strategy.MCTS, CONFIG, has_value=True).guidance is Guidance.PPM
    assert configured(Strategy.MCTS, CONFIG, has_value=False).guidance is Guidance.TERMINAL
    assert configured(Strategy.BEST_OF_N, CONFIG, has_value=True).guidance is Guidance.TERMINAL
    assert configured(Strategy.GREEDY, CONFIG, has_value=True).num_candidates == 1
    with pytest.raises(ConfigError, match="strategy beam needs a preference model"):
        configured(Strategy.BEAM, CONFIG, has_value=False)


votes = st.lists(
    st.builds(Vote, st.integers(0, 3), st.integers(1, 4).map(float), st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])),
    max_size=8,
)  # fmt: skip


@given(
    votes=votes, method=st.sampled_from([Method.MAJORITY, Method.BEST, Method.WEIGHTED_VOTE, Method.TOP_VOTE])
)
def test_a_ranking_shares_out_the_whole_vote_best_first(votes: list[Vote], method: Method) -> None:
    ranked = ranking(votes, method)
    assert len({support.answer_class for support in ranked}) == len(ranked)
    assert [support.share for support in ranked] == sorted((s.share for s in ranked), reverse=True)
    if votes:
        assert sum(support.share for support in ranked) == pytest.approx(1)
    else:
        assert ranked == []


def test_of_equal_answers_the_one_found_first_leads() -> None:
    found = [Vote(1, 1.0, 0.0), Vote(0, 1.0, 0.0)]
    assert [support.answer_class for support in ranking(found, Method.MAJORITY)] == [1, 0]


@given(first=st.integers(0, 12), second=st.integers(0, 12))
def test_a_vote_is_decided_as_often_as_the_posterior_says(first: int, second: int) -> None:
    """Against a numerical integral of the Beta density over p > 1/2."""
    first, second = max(first, second), min(first, second)
    steps = 4000
    grid = [(i + 0.5) / steps for i in range(steps)]
    density = [p**first * (1 - p) ** second for p in grid]
    chance = sum(d for p, d in zip(grid, density, strict=True) if p > 0.5) / sum(density)
    counts = [first, second] if second else [first]
    for certainty in (0.6, 0.8, 0.95, 0.99):
        if abs(chance - certainty) > 1e-3 and (first or second):
            assert decided(counts, certainty) is (chance > certainty)


def test_no_vote_is_no_decision() -> None:
    assert not decided([], 0.6)
