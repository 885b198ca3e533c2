"""Runs an evaluation, set by set and arm by arm, into a folder that can be gone on with and cited.

OUT/settings.json               settings, seed, hashes of the models, versions
OUT/SET/problems.jsonl          the very problems
OUT/SET/ARM/store/              whole trees; a rerun goes on from them
OUT/SET/ARM/attempts.jsonl      every answer, graded after the search
OUT/results.json, report.md, report.html
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from policy.attempts import ATTEMPTS, Attempt, attempts_of, by_problem, grade, write_attempts
from policy.evaluate import Evaluation
from rounds.artifact import hash_model, versions
from rounds.evals.arms import Arm, ArmName, arms, rows
from rounds.evals.config import EvalConfig
from rounds.evals.results import Results, SetResults, results_of
from rounds.evals.sets import LoadedSet
from rstar.campaign import search_into_store
from rstar.config import to_plain
from rstar.errors import ConfigError, StageError
from rstar.grading import Grader
from rstar.problems import Problem, write_problems
from rstar.searcher import LocalSearcher, OpenSearcher, OpenValue
from rstar.seeds import derive
from rstar.store import Store
from rstar.strategies import Strategy
from rstar.values import open_value

SETTINGS = "settings.json"
RESULTS = "results.json"
STORE = "store"
PROBLEMS = "problems.jsonl"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluand:
    """What is evaluated."""

    policy: Path
    ppm: Path | None
    prompt_format: str
    strategies: tuple[Strategy, ...]
    config: EvalConfig
    seed: int

    def open_value(self) -> OpenValue | None:
        return None if self.ppm is None else partial(open_value, self.ppm, self.config.engine)


def evaluate_sets(
    sets: Sequence[LoadedSet], what: Evaluand, out: Path, *, console: Console,
    open_searcher: OpenSearcher = LocalSearcher.open,
) -> Results:  # fmt: skip
    """Run what is not done yet, and make tables of everything.

    Raises ConfigError if `out` holds an evaluation with other settings, or a strategy needs a preference model; StageError if
    trees were parked: the same call goes on.
    """
    to_run = arms(what.strategies, what.config, has_ppm=what.ppm is not None)
    settings = _settings(sets, what)
    _claim(out, settings)
    evaluated = []
    for one in sets:
        folder = out / one.name
        folder.mkdir(exist_ok=True)
        write_problems(folder / PROBLEMS, one.problems)
        attempts = {
            arm.name: _attempts(arm, one, what, folder / arm.name, console, open_searcher) for arm in to_run
        }
        evaluated.append(_results(one, what, attempts))
    results = Results(settings=settings, sets=tuple(evaluated))
    (out / RESULTS).write_text(
        json.dumps(results.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return results


def _results(one: LoadedSet, what: Evaluand, attempts: dict[ArmName, list[Attempt]]) -> SetResults:
    seed = derive(what.seed, "evaluation", one.name)
    evaluations = {name: Evaluation(by_problem(found), seed=seed) for name, found in attempts.items()}
    return results_of(
        one.name, one.title, one.origin, evaluations,
        rows(what.strategies, has_ppm=what.ppm is not None), seed=seed,
    )  # fmt: skip


def _attempts(
    arm: Arm, one: LoadedSet, what: Evaluand, folder: Path, console: Console, open_searcher: OpenSearcher
) -> list[Attempt]:
    """The arm's trees, searched as far as they are not stored, without their answers; then graded."""
    store = Store.create(folder / STORE)
    config = what.config
    faults = asyncio.run(
        search_into_store(
            one.problems, model=what.policy, store=store, round_index=0, label=f"{one.title}, {arm.name}",
            search=arm.search, sandbox=config.sandbox, grading=config.grading, engine=config.engine,
            prompt_format=what.prompt_format, seed=derive(what.seed, one.name, arm.name),
            open_value=what.open_value() if arm.scored else None, tree_indices=range(arm.num_trees), reference=False,
            progress_file=folder / "progress.json", console=console, open_searcher=open_searcher, follow=arm.follow,
        )
    )  # fmt: skip
    if faults:
        raise StageError(
            f"{one.title}, {arm.name}: {len(faults)} trees were parked, the first: {faults[0]}; run the same command again"
        )
    graded = asyncio.run(_graded(store, one.problems, config))
    write_attempts(folder / ATTEMPTS, graded)
    return graded


async def _graded(store: Store, problems: Sequence[Problem], config: EvalConfig) -> list[Attempt]:
    levels = {problem.id: problem.level for problem in problems}
    answers = [one for tree in store.trees() for one in attempts_of(tree, levels[tree.problem_id])]
    async with Grader(config.grading) as grader:
        return await grade(answers, problems, grader)


def _settings(sets: Sequence[LoadedSet], what: Evaluand) -> dict[str, Any]:
    decisive = {
        name: to_plain(getattr(what.config, name)) for name in ("search", "num_trajectories", "num_samples")
    }
    return {
        "policy": {"folder": str(what.policy), "hash": hash_model(what.policy)},
        "ppm": None if what.ppm is None else {"folder": str(what.ppm), "hash": hash_model(what.ppm)},
        "prompt_format": what.prompt_format,
        "strategies": [str(strategy) for strategy in what.strategies],
        "seed": what.seed,
        "sets": {one.name: {"origin": one.origin, "problems": len(one.problems)} for one in sets},
        **decisive,
        "engine": to_plain(what.config.engine),
        "versions": versions(),
    }


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder this evaluation's, or refuse another's. More sets and strategies may be added to it."""
    file = out / SETTINGS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        fixed = ("policy", "ppm", "prompt_format", "seed", "search", "num_trajectories", "num_samples")
        for name in fixed:
            old, new = before.get(name), settings[name]
            if name in ("policy", "ppm"):
                old, new = (None if one is None else one["hash"] for one in (old, new))
            if old != new:
                raise ConfigError(
                    f"{out} holds an evaluation with another {name}; give another folder (--out), or the same settings"
                )
        for name, one in settings["sets"].items():
            earlier = before["sets"].get(name)
            if earlier is not None and earlier["problems"] != one["problems"]:
                raise ConfigError(
                    f"{out} holds {earlier['problems']} problems of {name}, not {one['problems']}; give another folder (--out)"
                )
        settings = {**settings, "sets": {**before["sets"], **settings["sets"]}}
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
