"""Real trees for tests, grown by the search itself from the scripted policy."""

from __future__ import annotations

import asyncio

from rstar.backends.scripted import ChainWorld
from rstar.config import SearchConfig
from rstar.evaluation import Engines
from rstar.search import TreeSearch
from rstar.tree import Tree
from tests.rstar.fakes import InProcessSandbox, TextJudge


def grow(*, seed: int = 0, num_rollouts: int = 6, num_candidates: int = 4, num_operations: int = 3) -> Tree:
    """The tree of one chain problem; the same for the same arguments."""
    world = ChainWorld(num_operations=num_operations)
    problem = world.problems(1, seed=seed)[0]
    search = TreeSearch(
        Tree(problem_id=problem.id, question=problem.question, seed=seed),
        Engines(policy=world.policy(), sandbox=InProcessSandbox()),
        TextJudge(problem.answer),
        SearchConfig(num_rollouts=num_rollouts, num_candidates=num_candidates),
    )
    return asyncio.run(search.run())
