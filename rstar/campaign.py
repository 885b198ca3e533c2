"""Problems in, a store of trees out: the search of a whole problem set, resumable."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rstar.engines import EngineConfig, open_engines
from rstar.errors import ConfigError
from rstar.evaluation import SearchCounts
from rstar.grading import ReferenceJudge
from rstar.progress import SearchProgress
from rstar.prompts import FORMATS
from rstar.search import SearchTask, search_trees
from rstar.tree import Tree

if TYPE_CHECKING:
    from rich.console import Console

    from rstar.config import SearchConfig
    from rstar.grading import GraderConfig
    from rstar.problems import Problem
    from rstar.sandbox import SandboxConfig
    from rstar.store import Store


SILENT_TREES = 16
"""After so many trees without one executed step a search stops: the model does not write the step format [ours]."""


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
    progress_file: Path | None = None,
    console: Console | None = None,
) -> list[str]:
    """One tree per problem, judged by its reference answer. Trees that the store has in this round already are not
    searched again, so a run that was killed ends in the trees of one that was not.

    Returns what is wrong with each tree that was parked; those are not stored. Raises ConfigError for a model or a
    setting that cannot be used, and for a model of which no step is ever executed; StoreError if another process is
    writing to the store.
    """
    by_id = {problem.id: problem for problem in problems}
    with store.writer(round=round_index, settings=search) as writer:
        done = {problem_id for problem_id, _ in store.keys(round_index)}
        left = [problem for problem in problems if problem.id not in done]
        if not left:
            return []
        counts = SearchCounts()
        faults: list[str] = []
        async with open_engines(model, engine, sandbox, grading) as (engines, grader):
            tasks = (
                SearchTask(
                    tree=Tree(problem_id=problem.id, question=problem.question, seed=seed),
                    judge=ReferenceJudge(grader, problem.answer),
                )
                for problem in left
            )
            progress = SearchProgress(
                label, len(problems), counts,
                already_done=len(problems) - len(left), file=progress_file, console=console,
            )  # fmt: skip
            with progress:
                results = search_trees(
                    tasks, engines, search, format=FORMATS[prompt_format],
                    max_trees_in_flight=engine.max_trees_in_flight, counts=counts,
                )  # fmt: skip
                async for result in results:
                    problem = by_id[result.tree.problem_id]
                    progress.add(result, problem.level)
                    if result.fault:
                        faults.append(f"{result.tree.name}: {result.fault}")
                        continue
                    if not counts.executions and progress.done >= min(
                        SILENT_TREES, len(left) - progress.parked
                    ):
                        raise ConfigError(
                            f"{progress.done} trees without one executed step: the model in {model} does not write steps in prompt "
                            f"format {prompt_format!r}; a first completion reads {_first_completion(result.tree)!r}"
                        )
                    await asyncio.to_thread(
                        writer.append, result.tree,
                        level=problem.level, source=problem.source, seconds=result.seconds,
                    )  # fmt: skip
        return faults


def _first_completion(tree: Tree) -> str:
    return tree.nodes[1].text[:60] if len(tree.nodes) > 1 else ""
