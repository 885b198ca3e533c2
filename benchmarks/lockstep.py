"""A lock-step scheduler, as the released rStar-Math engine has one: what `bench_scheduling` compares ours with.

All trees go together: propose for all, wait; evaluate all, wait; attach, choose, next level. The same seeds give the very
trees of `rstar.search`, only the waiting differs. (Ours: no code of that engine.)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rstar import mcts
from rstar.config import SearchConfig
from rstar.evaluation import Engines, SearchCounts, evaluate
from rstar.prompts import BARE, Prefix, render_prompt
from rstar.protocols import Candidate, ProposeRequest
from rstar.search import SearchTask
from rstar.seeds import derive, rng
from rstar.trajectories import prefix_of
from rstar.tree import Tree


@dataclass
class _Walk:
    """One tree's rollout under way."""

    task: SearchTask
    chooser: random.Random
    node_id: int

    @property
    def tree(self) -> Tree:
        return self.task.tree


async def search_in_lockstep(tasks: Sequence[SearchTask], engines: Engines, config: SearchConfig) -> None:
    """Search all trees of `tasks`, level by level."""
    counts = SearchCounts()
    for rollout in range(config.num_rollouts):
        walks = []
        for task in tasks:
            chooser = rng(task.tree.seed, task.tree.name, "rollout", rollout)
            node_id = mcts.select(task.tree, config, chooser)
            if node_id is not None:
                walks.append(_Walk(task, chooser, node_id))
                task.tree.num_rollouts += 1
        while walks:
            prefixes = [_prefix(walk, engines, config) for walk in walks]
            proposed = await asyncio.gather(
                *(
                    _propose(walk, prefix, engines, config)
                    for walk, prefix in zip(walks, prefixes, strict=True)
                )
            )  # barrier
            evaluated = await asyncio.gather(
                *(
                    evaluate(
                        walk.tree, walk.node_id, candidates, prefix, engines=engines, judge=walk.task.judge,
                        config=config, counts=counts, rollout=rollout,
                    )
                    for walk, candidates, prefix in zip(walks, proposed, prefixes, strict=True)
                )
            )  # fmt: skip  # barrier
            going_on = []
            for walk, found in zip(walks, evaluated, strict=True):
                mcts.expand(walk.tree, walk.node_id, found)
                child = mcts.go_on(walk.tree, walk.node_id, config, walk.chooser)
                if child is None:
                    mcts.leave(walk.tree, walk.node_id)
                else:
                    walk.node_id = child
                    going_on.append(walk)
            walks = going_on
    for task in tasks:
        engines.sandbox.release(task.tree.name)


def _prefix(walk: _Walk, engines: Engines, config: SearchConfig) -> Prefix:
    return prefix_of(
        walk.tree, walk.node_id, prompt=render_prompt(BARE, walk.tree.question), encode=engines.policy.encode,
        max_output_chars=config.max_output_chars,
    )  # fmt: skip


async def _propose(walk: _Walk, prefix: Prefix, engines: Engines, config: SearchConfig) -> list[Candidate]:
    candidates = await engines.policy.propose(
        ProposeRequest(
            prefix_ids=prefix.token_ids,
            num_candidates=config.num_candidates,
            seed=derive(walk.tree.seed, walk.tree.name, "propose", walk.node_id),
            sampling=config.sampling,
            stop=BARE.stop,
            group=walk.tree.name,
        )
    )
    walk.tree.num_tokens += sum(len(candidate.token_ids) for candidate in candidates)
    return candidates
