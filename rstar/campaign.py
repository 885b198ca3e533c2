"""Problems in, a store of trees out: the search of a whole problem set, pass after pass, resumable.

The first pass searches the trees that the store does not have. Each further one goes over the problems that are still
without a verified answer, and takes a stored tree on, or searches one more with a seed of its own. What is left to do
follows from the stored trees alone, so a search that is killed anywhere and run again ends in the same trees.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rstar.engines import EngineConfig, open_engines
from rstar.errors import ConfigError
from rstar.evaluation import SearchCounts
from rstar.progress import SearchProgress
from rstar.search import Follow, SearchResult, TreeSearch
from rstar.searcher import LocalSearcher, OpenSearcher, OpenValue, Searcher, SearchSetup, TreeTask
from rstar.seeds import derive
from rstar.store import Outcome
from rstar.tree import Tree

if TYPE_CHECKING:
    from rich.console import Console

    from rstar.config import SearchConfig
    from rstar.grading import GraderConfig
    from rstar.problems import Problem
    from rstar.sandbox import SandboxConfig
    from rstar.store import Store, StoreWriter, TreeRecord

TreeKey = tuple[str, int]
"""Problem id and tree index."""

SILENT_TREES = 16
"""After so many trees without one executed step a search stops: the model does not write the step format [ours]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsolvedPass:
    """What a further pass does for each problem of which no tree has a verified answer."""

    num_rollouts: int
    """To which its tree is taken, in all; less if the tree is exhausted or its token budget spent."""
    tree_index: int = 0
    """Which tree; one that is stored is searched on."""


@dataclass(frozen=True, slots=True)
class _Goal:
    """A tree, and the rollouts to which it is taken in all."""

    problem: Problem
    tree_index: int
    num_rollouts: int
    stored: TreeRecord | None = None

    @property
    def key(self) -> TreeKey:
        return self.problem.id, self.tree_index


async def search_into_store(
    problems: Sequence[Problem],
    *,
    model: Path,
    store: Store,
    round_index: int,
    label: str,
    search: SearchConfig,
    sandbox: SandboxConfig,
    grading: GraderConfig,
    engine: EngineConfig,
    prompt_format: str,
    seed: int,
    open_value: OpenValue | None = None,
    tree_indices: Sequence[int] = (0,),
    reference: bool = True,
    fewer_rollouts: Mapping[str, int] | None = None,
    unsolved: Sequence[UnsolvedPass] = (),
    progress_file: Path | None = None,
    console: Console | None = None,
    open_searcher: OpenSearcher = LocalSearcher.open,
    follow: Follow = TreeSearch.run,
) -> list[str]:
    """One tree per problem and tree index, then the passes over what is `unsolved`, each when the one before has ended.
    A tree that the store has in this round already is searched on only by such a pass.

    `open_value` makes the model that guides the search, where the search runs. With `reference=False` no answer is verified:
    inference. `fewer_rollouts` gives, by problem id, what the first pass does instead of the config's number.
    `open_searcher` says where trees are searched, `follow` how; engines are opened only if there is something to search.

    Returns what is wrong with each tree that was parked; those are not stored, and no further pass begins. Raises
    ConfigError for a model or a setting that cannot be used, and for a model of which no step is ever executed;
    StoreError if another process is writing to the store.
    """
    assert reference or not unsolved, "without references nobody knows what is unsolved"
    fewer = fewer_rollouts or {}
    everything = [
        _Goal(problem, index, fewer.get(problem.id, search.num_rollouts))
        for index in tree_indices
        for problem in problems
    ]
    model = _absolute(model)
    setup = SearchSetup(
        open_engines=partial(open_engines, model, engine, sandbox, grading), open_value=open_value,
        model=model, search=search, prompt_format=prompt_format,
        max_trees_in_flight=engine.max_trees_in_flight, num_gpus=engine.num_gpus, follow=follow,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        writer = stack.enter_context(store.writer(round=round_index, settings=search))
        searcher: Searcher | None = None
        for further in (None, *unsolved):
            records = {
                (record.problem_id, record.tree_index): record for record in store.records(round_index)
            }
            if further is None:
                goals = [goal for goal in everything if goal.key not in records]
                name, already_done = label, len(everything) - len(goals)
            else:
                goals = _still_unsolved(problems, further, records)
                name, already_done = f"{label}, unsolved, {further.num_rollouts} rollouts", 0
            if not goals:
                continue
            if searcher is None:
                searcher = await open_searcher(setup)
                stack.push_async_callback(searcher.aclose)
            counts = SearchCounts()
            progress = SearchProgress(
                name, already_done + len(goals), counts,
                already_done=already_done, verifies=reference, file=progress_file, console=console,
            )  # fmt: skip
            results = searcher.search(_tasks(goals, store, round_index, seed, reference=reference), counts)
            silent = f"the model in {model} does not write steps in prompt format {prompt_format!r}"
            with progress:
                faults = await _keep(results, goals, writer, progress, silent)
            if faults:
                return faults
    return []


def _absolute(folder: Path) -> Path:
    """The same folder for a process that works elsewhere."""
    return folder.absolute()


def _still_unsolved(
    problems: Sequence[Problem], further: UnsolvedPass, records: Mapping[TreeKey, TreeRecord]
) -> list[_Goal]:
    """What a further pass has to do, given what is stored."""
    solved = {problem_id for (problem_id, _), r in records.items() if r.outcome is Outcome.SOLVED}
    goals = [
        _Goal(
            problem, further.tree_index, further.num_rollouts, records.get((problem.id, further.tree_index))
        )
        for problem in problems
        if problem.id not in solved
    ]
    return [goal for goal in goals if goal.stored is None or goal.stored.num_rollouts < goal.num_rollouts]


def _tasks(
    goals: Sequence[_Goal], store: Store, round_index: int, seed: int, *, reference: bool
) -> Iterator[TreeTask]:
    """A task per goal: new trees first, then the stored ones, each read when it is asked for."""
    by_key = {goal.key: goal for goal in goals}

    def task(tree: Tree) -> TreeTask:
        goal = by_key[tree.problem_id, tree.tree_index]
        return TreeTask(
            tree=tree,
            reference=goal.problem.answer if reference else None,
            num_rollouts=goal.num_rollouts - tree.num_rollouts,
        )

    for goal in goals:
        if goal.stored is None:
            index = goal.tree_index
            own_seed = derive(seed, "tree", index) if index else seed
            yield task(
                Tree(
                    problem_id=goal.problem.id,
                    question=goal.problem.question,
                    seed=own_seed,
                    tree_index=index,
                )
            )
    stored = {goal.key for goal in goals if goal.stored is not None}
    for tree in store.trees(round_index, problem_ids={problem_id for problem_id, _ in stored}):
        if (tree.problem_id, tree.tree_index) in stored:
            yield task(tree)


async def _keep(
    results: AsyncIterator[SearchResult],
    goals: Sequence[_Goal],
    writer: StoreWriter,
    progress: SearchProgress,
    silent: str,
) -> list[str]:
    """Store each tree that comes in, unless nothing was added to it; returns what is wrong with those parked."""
    by_key = {goal.key: goal for goal in goals}
    faults: list[str] = []
    async for result in results:
        tree = result.tree
        goal = by_key[tree.problem_id, tree.tree_index]
        progress.add(result, goal.problem.level)
        if result.fault:
            faults.append(f"{tree.name}: {result.fault}")
            continue
        if goal.stored is not None and goal.stored.num_rollouts == tree.num_rollouts:
            continue
        enough = min(SILENT_TREES, len(goals) - progress.parked)
        silent_so_far = (
            not progress.counts.executions and not tree.num_executions
        )  # reopened ones may have run before
        if silent_so_far and progress.done >= enough:
            raise ConfigError(
                f"{progress.done} trees without one executed step: {silent}; "
                f"a first completion reads {_first_completion(tree)!r}"
            )
        await asyncio.to_thread(
            writer.append, tree, level=goal.problem.level, source=goal.problem.source, seconds=result.seconds
        )
    return faults


def _first_completion(tree: Tree) -> str:
    return tree.nodes[1].text[:60] if len(tree.nodes) > 1 else ""
