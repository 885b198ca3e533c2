"""Stages that search: the training problems for a round, and the held-out ones to see what a policy is worth alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ppm.opening import open_scorer
from rounds.artifact import STORE, read_manifest
from rounds.health import search_health
from rounds.pools import EVALUATION, TRAIN
from rounds.recipe import RoundRecipe
from rounds.workplace import HERE, Workplace
from rstar.campaign import UnsolvedPass, search_into_store
from rstar.config import Guidance, greedy
from rstar.energy import EnergyMeter
from rstar.engines import EngineConfig
from rstar.errors import StageError
from rstar.problems import read_problems
from rstar.store import Outcome, Store

if TYPE_CHECKING:
    from ppm.scorer import PPMScorer
    from ppm.vllm_scorer import VLLMScorer

EARLIER = ("search_before", "search_before_that")
"""Inputs of a search that spares mastered problems: the searches of the two rounds before."""


def make_search(
    recipe: RoundRecipe,
    console: Console,
    folder: Path,
    inputs: Mapping[str, Path],
    *,
    workplace: Workplace = HERE,
) -> dict[str, Any]:
    """Trees of every training problem; further rollouts, then further trees, where no answer is verified."""
    problems = read_problems(inputs["problems"] / TRAIN).problems
    spared: dict[str, int] = {}
    if recipe.mastered_rollouts is not None and EARLIER[0] in inputs:
        spared = dict.fromkeys(mastered(inputs[name] / STORE for name in EARLIER), recipe.mastered_rollouts)
    store = Store.create(folder / STORE)
    energy = EnergyMeter()

    async def search() -> list[str]:
        guided = recipe.search.guidance is Guidance.PPM
        return await search_into_store(
            problems, model=inputs["model"], store=store, round_index=recipe.round_index,
            label=f"round {recipe.round_index} search", search=recipe.search, sandbox=recipe.sandbox,
            grading=recipe.grading, engine=recipe.search_engine or recipe.engine, prompt_format=recipe.searched_format,
            seed=recipe.stage_seed("search"),
            open_value=partial(value_model, inputs["ppm"].absolute(), recipe.engine) if guided else None,
            fewer_rollouts=spared, unsolved=passes(recipe), progress_file=folder / "progress.json", console=console,
            open_searcher=workplace.open_searcher,
        )  # fmt: skip

    refuse_faults(asyncio.run(search()))
    health = search_health(store.trees(recipe.round_index), {p.id: p.level for p in problems})
    return {**health.summary(), "mastered": len(spared), "joules": energy.joules()}


def passes(recipe: RoundRecipe) -> list[UnsolvedPass]:
    """What the search does about unsolved problems: the first tree taken on, then others with as many rollouts."""
    totals = recipe.unsolved.num_rollouts
    most = totals[-1] if totals else recipe.search.num_rollouts
    return [
        *(UnsolvedPass(num_rollouts=total) for total in totals),
        *(UnsolvedPass(num_rollouts=most, tree_index=i) for i in range(1, recipe.unsolved.num_trees)),
    ]


def mastered(stores: Iterable[Path]) -> set[str]:
    """The problems of which every answer sampled in each of these stores is right, one at least in each."""
    found = []
    for store in stores:
        all_right: dict[str, bool] = {}
        for trajectory in Store(store).trajectories():
            problem_id = trajectory.problem_id
            all_right[problem_id] = all_right.get(problem_id, True) and bool(trajectory.verified)
        found.append({problem_id for problem_id, right in all_right.items() if right})
    return set.intersection(*found)


def value_model(folder: Path, engine: EngineConfig) -> PPMScorer | VLLMScorer:
    """The preference model of a finished `ppm` stage; it cuts long prefixes as its training did."""
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is complete"
    return open_scorer(folder, engine, max_length=manifest.settings["ppm"]["max_length"])


def make_evaluation(
    recipe: RoundRecipe,
    console: Console,
    name: str,
    folder: Path,
    inputs: Mapping[str, Path],
    *,
    workplace: Workplace = HERE,
) -> dict[str, Any]:
    """The policy alone: greedy trees over the held-out problems; pass@1 is the share of verified ones."""
    problems = read_problems(inputs["problems"] / EVALUATION).problems
    store = Store.create(folder / STORE)
    energy = EnergyMeter()
    faults = asyncio.run(
        search_into_store(
            problems, model=inputs["model"], store=store, round_index=recipe.round_index, label=f"{name} evaluation",
            search=greedy(recipe.search), sandbox=recipe.sandbox, grading=recipe.grading, engine=recipe.engine,
            prompt_format=recipe.prompt_format, seed=recipe.seed, progress_file=folder / "progress.json",
            console=console, open_searcher=workplace.open_searcher,
        )
    )  # fmt: skip
    refuse_faults(faults)
    records = store.records()
    return {
        "problems": len(records),
        "solved": sum(record.outcome is Outcome.SOLVED for record in records),
        "tokens": sum(record.num_tokens for record in records),
        "joules": energy.joules(),
    }


def refuse_faults(faults: list[str]) -> None:
    """Raise StageError if trees were parked."""
    if faults:
        raise StageError(f"{len(faults)} trees were parked, the first: {faults[0]}")


def outcomes(store: Path) -> dict[str, tuple[str, bool]]:
    """Problem id to (level, solved), from an evaluation's store."""
    return {r.problem_id: (r.level, r.outcome is Outcome.SOLVED) for r in Store(store).records()}
