"""Scores of stored trajectories: what the model is asked is what a search asks it, token for token."""

from __future__ import annotations

import asyncio

import pytest

from ppm.evaluate import TREES_AT_ONCE, score_trajectories
from rstar.backends.scripted import ChainWorld, ScriptedValue
from rstar.config import Guidance, SearchConfig
from rstar.evaluation import Engines
from rstar.prompts import BARE, RSTAR, PromptFormat
from rstar.protocols import ScoreRequest
from rstar.search import TreeSearch
from rstar.trajectories import trajectories
from rstar.tree import TerminalReason, Tree
from tests.rstar.fakes import InProcessSandbox, TextJudge


class RecordingValue(ScriptedValue):
    """Scores by a hash-like function of the text and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(lambda text: (sum(text.encode()) * 37 % 2001) / 1000 - 1)
        self.asked: list[ScoreRequest] = []

    async def score(self, request: ScoreRequest) -> list[float]:
        self.asked.append(request)
        return await super().score(request)


def search(
    value: RecordingValue | None, *, seed: int, format: PromptFormat, max_output_chars: int = 2000
) -> Tree:
    """An inference search: no reference answer, so that the value model scores whole trajectories."""
    world = ChainWorld(num_operations=3)
    problem = world.problems(1, seed=seed)[0]
    guidance = Guidance.TERMINAL if value is None else Guidance.PPM
    one = TreeSearch(
        Tree(problem_id=problem.id, question=problem.question, seed=seed),
        Engines(policy=world.policy(), sandbox=InProcessSandbox(), value=value),
        TextJudge(None),
        SearchConfig(num_rollouts=6, num_candidates=4, guidance=guidance, max_output_chars=max_output_chars),
        format=format,
    )
    return asyncio.run(one.run())


def score(
    trees: list[Tree], value: RecordingValue, *, format: PromptFormat = BARE, max_output_chars: int = 2000
) -> list[tuple[Tree, dict[int, float]]]:
    async def collect() -> list[tuple[Tree, dict[int, float]]]:
        found = score_trajectories(
            trees, value, format=format, encode=ChainWorld().policy().encode, max_output_chars=max_output_chars
        )  # fmt: skip
        return [one async for one in found]

    return asyncio.run(collect())


@pytest.mark.parametrize("format", [BARE, RSTAR])
@pytest.mark.parametrize("max_output_chars", [2000, 1])
def test_stored_trajectories_get_the_scores_of_the_search_itself(
    format: PromptFormat, max_output_chars: int
) -> None:
    during, after = RecordingValue(), RecordingValue()
    trees = [search(during, seed=seed, format=format, max_output_chars=max_output_chars) for seed in range(6)]
    for tree, scores in score(trees, after, format=format, max_output_chars=max_output_chars):
        answers = {n: tree.nodes[n] for n in tree.terminal_nodes() if tree.nodes[n].terminal is TerminalReason.ANSWERED}  # fmt: skip
        assert scores == {node_id: node.initial_value for node_id, node in answers.items()}
    assert sum(len(trajectories(tree)) for tree in trees) > 6

    def key(request: ScoreRequest) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], str]:
        return request.prefix_ids, request.step_ids, request.group

    assert {key(request) for request in after.asked} <= {key(request) for request in during.asked}


def test_trees_come_back_in_order_and_all_of_them() -> None:
    tree = search(None, seed=0, format=BARE)
    empty = Tree(problem_id="empty", question="?")
    trees = [tree, empty] * TREES_AT_ONCE
    found = score(trees, RecordingValue())
    assert [one is other for (one, _), other in zip(found, trees, strict=True)] == [True] * len(trees)
    assert found[1][1] == {}
    assert len(found[0][1]) == len(trajectories(tree)) > 0
