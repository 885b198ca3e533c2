"""From questions to trees: one coroutine per tree, thousands at once, no barrier between them.

A tree's outcome depends on its seed alone, not on what else runs, as far as the back-ends' answers do not (exactly so
with the scripted policy, at one rollout in flight). The types here hold no reference answer: a judge that knows one is
an argument in training, and absent at inference.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from rstar import mcts
from rstar.config import Guidance, SearchConfig
from rstar.errors import BackendError, ConfigError, GradingError, SandboxError
from rstar.evaluation import Engines, SearchCounts, asking, evaluate, together
from rstar.mcts import Evaluated
from rstar.prompts import BARE, Prefix, PromptFormat, render_prompt
from rstar.protocols import AnswerJudge, Candidate, ProposeRequest
from rstar.seeds import derive, rng
from rstar.trajectories import prefix_of
from rstar.tree import TerminalReason, Tree


class TreeSearch:
    """Searches one tree. A tree that comes from a store goes on where it stopped: seeds, choices and (by replay) the
    sandbox's state are those of a search that never stopped."""

    def __init__(
        self,
        tree: Tree,
        engines: Engines,
        judge: AnswerJudge,
        config: SearchConfig,
        *,
        format: PromptFormat = BARE,
        counts: SearchCounts | None = None,
        on_expanded: Callable[[Tree, int], None] | None = None,
        enough: Callable[[Tree], Awaitable[bool]] | None = None,
    ) -> None:
        """`on_expanded` is told of each node that has been expanded. `enough` is asked before each rollout whether to stop.

        Raises ConfigError for PPM guidance without a value model."""
        if config.guidance is Guidance.PPM and engines.value is None:
            raise ConfigError(
                "guidance is 'ppm' but there is no value model; give one, or set guidance=terminal"
            )
        self.tree = tree
        self.engines = engines
        self.judge = judge
        self.config = config
        self.format = format
        self.counts = counts if counts is not None else SearchCounts()
        self._on_expanded = on_expanded
        self._enough = enough
        self._prompt = render_prompt(format, tree.question, engines.policy.render_chat)
        self._encode = lru_cache(maxsize=256)(lambda text: tuple(engines.policy.encode(text)))
        self._busy: set[int] = set()
        self._expanded = asyncio.Event()

    async def run(self, num_rollouts: int | None = None) -> Tree:
        """Do `num_rollouts` more rollouts (default: the config's number), fewer if the tree is exhausted or its token
        budget spent. Raises BackendError, SandboxError or GradingError if one of them stays out of order."""
        first = self.tree.num_rollouts
        count = self.config.num_rollouts if num_rollouts is None else num_rollouts
        indices = iter(range(first, first + count))

        async def lane() -> None:
            for index in indices:
                if self.tree.exhausted or await self.stopped():
                    return
                await self.rollout(index)

        try:
            await together(lane() for _ in range(self.config.parallel_rollouts))
        finally:
            self.engines.sandbox.release(self.tree.name)
        return self.tree

    async def rollout(self, index: int) -> None:
        """Select a node; expand it, evaluate, back up; go on with its best child, until the path ends."""
        chooser = rng(self.tree.seed, self.tree.name, "rollout", index)
        node_id = await self._select(chooser)
        if node_id is None:
            return
        try:
            while True:
                await self.expand(node_id, rollout=index)
                child = mcts.go_on(self.tree, node_id, self.config, chooser)
                if child is None:
                    break
                self._busy.add(child)
                self._release(node_id)
                node_id = child
            self.tree.num_rollouts += 1
            self.counts.rollouts += 1
        finally:
            mcts.leave(self.tree, node_id)
            self._release(node_id)

    async def _select(self, chooser: random.Random) -> int | None:
        """A node to expand, marked as busy. Waits while everything left is being expanded by other rollouts; None if a
        path ended everywhere in the meantime."""
        while True:
            node_id = mcts.select(self.tree, self.config, chooser, self._busy)
            if node_id is not None:
                self._busy.add(node_id)
                return node_id
            if self.tree.exhausted:
                return None
            await self._expanded.wait()

    def _release(self, node_id: int) -> None:
        """The node is no longer being expanded: rollouts that wait for one look again."""
        self._busy.discard(node_id)
        self._expanded.set()
        self._expanded = asyncio.Event()

    async def expand(self, node_id: int, *, rollout: int) -> None:
        """Propose, evaluate and attach the children of one node, and back up those that are terminal."""
        self.attach(node_id, await self.continuations(node_id, rollout=rollout))

    async def continuations(
        self, node_id: int, *, rollout: int, num_candidates: int | None = None
    ) -> list[Evaluated]:
        """Evaluated candidates to follow a node (default: the config's number); none if there is no room for a next step."""
        prefix = self._prefix(node_id)
        if len(prefix) >= self.engines.policy.max_context_tokens:
            return []
        candidates = await self._propose(node_id, prefix, num_candidates or self.config.num_candidates)
        return await evaluate(
            self.tree, node_id, candidates, prefix, engines=self.engines, judge=self.judge,
            config=self.config, counts=self.counts, rollout=rollout,
        )  # fmt: skip

    def attach(self, node_id: int, evaluated: list[Evaluated]) -> None:
        """Make them the node's children, and back up what is terminal; without any, give the node up."""
        node = self.tree.nodes[node_id]
        if evaluated:
            mcts.expand(self.tree, node_id, evaluated)
        else:
            node.error = "no room for a next step"
            mcts.give_up(self.tree, node_id, TerminalReason.CONTEXT_OVERFLOW)
        if node.terminal is not None:
            self.counts.terminals[node.terminal] += 1
        if self._on_expanded is not None:
            self._on_expanded(self.tree, node_id)

    async def _propose(self, node_id: int, prefix: Prefix, num_candidates: int) -> list[Candidate]:
        request = ProposeRequest(
            prefix_ids=prefix.token_ids,
            num_candidates=num_candidates,
            seed=derive(self.tree.seed, self.tree.name, "propose", node_id),
            sampling=self.config.sampling,
            stop=self.format.stop,
            group=self.tree.name,
        )
        candidates = await asking(self.engines.policy.propose, request, self.counts)
        if len(candidates) != request.num_candidates:
            raise BackendError(f"the policy gave {len(candidates)} candidates for {request.num_candidates}")
        tokens = sum(len(candidate.token_ids) for candidate in candidates)
        self.tree.num_tokens += tokens
        self.counts.tokens += tokens
        self.counts.expansions += 1
        return candidates

    def _prefix(self, node_id: int) -> Prefix:
        return prefix_of(
            self.tree, node_id, prompt=self._prompt, encode=self._encode,
            max_output_chars=self.config.max_output_chars,
        )  # fmt: skip

    async def stopped(self) -> bool:
        """The token budget is spent, or whoever asked has enough."""
        budget = self.config.max_tree_tokens
        if budget is not None and self.tree.num_tokens >= budget:
            return True
        return self._enough is not None and await self._enough(self.tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTask:
    """One tree to search: new (`tree` has a root only) or reopened, with its own judge."""

    tree: Tree
    judge: AnswerJudge
    num_rollouts: int | None = None
    """More rollouts to do; None: the config's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A finished tree, or one that was parked: `fault` says which part stayed out of order. A parked tree is not to be
    stored; a rerun searches it again from its start."""

    tree: Tree
    seconds: float
    fault: str = ""


Follow = Callable[[TreeSearch, int | None], Awaitable[object]]
"""How one tree is searched, given the number of rollouts (None: the config's)."""


async def search_trees(
    tasks: Iterable[SearchTask],
    engines: Engines,
    config: SearchConfig,
    *,
    follow: Follow = TreeSearch.run,
    format: PromptFormat = BARE,
    max_trees_in_flight: int = 64,
    counts: SearchCounts | None = None,
) -> AsyncIterator[SearchResult]:
    """Search many trees at once and yield each as it ends, in the order in which they end.

    At most `max_trees_in_flight` run at a time, the only throttle. Closing the iterator cancels what is in flight.
    """
    counts = counts if counts is not None else SearchCounts()
    waiting = iter(tasks)
    running: set[asyncio.Task[SearchResult]] = set()

    def refill() -> None:
        while len(running) < max_trees_in_flight and (task := next(waiting, None)) is not None:
            search = TreeSearch(task.tree, engines, task.judge, config, format=format, counts=counts)
            running.add(asyncio.create_task(finish_search(search, task.num_rollouts, follow)))
        counts.trees_in_flight = len(running)

    try:
        refill()
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running -= done
            refill()
            for ended in done:
                yield ended.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def finish_search(
    search: TreeSearch, num_rollouts: int | None, follow: Follow = TreeSearch.run
) -> SearchResult:
    """Run a search to its end, or to the fault that it is parked for."""
    began = time.monotonic()
    try:
        await follow(search, num_rollouts)
    except (BackendError, SandboxError, GradingError) as error:
        fault = f"{type(error).__name__}: {error}"
        return SearchResult(tree=search.tree, seconds=time.monotonic() - began, fault=fault)
    return SearchResult(tree=search.tree, seconds=time.monotonic() - began)
