"""Stages of the paper's ablations: the training set of the policy (table 7) and the value model (table 8) replaced.

    make_samples          rejection sampling: independent samples in place of a search, for as many tokens
    make_policies         greedy policies by training set
    make_value_models     PPM in a search, PQM in a search, ORM over samples: does the order of the paper hold?

What they share with the rounds, the trainings and the evaluations, are the rounds' own stages with one input or setting
replaced (`ablation_stages`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console

from policy.attempts import ATTEMPTS, by_problem, read_attempts
from policy.evaluate import Comparison, Evaluation, at_equal_tokens
from policy.statistics import ALL_LEVELS, PairedDifference, PassRate, paired_difference, pass_rates
from rounds.artifact import STORE, read_manifest
from rounds.evaluation import (
    LEVELS,
    SAMPLES,
    VALUE_MODELS,
    compare_with_samples,
    evaluation_seed,
    plain_comparison,
    plain_difference,
    plain_point,
    samples_file,
    single_sample,
)
from rounds.health import search_health
from rounds.pools import TRAIN
from rounds.recipe import RoundRecipe
from rounds.searching import outcomes, refuse_faults
from rounds.workplace import HERE, Workplace
from rstar.campaign import search_into_store
from rstar.energy import EnergyMeter
from rstar.problems import read_problems
from rstar.selection import Method
from rstar.store import Store

METHOD = "top_mean_q"
"""Input of `make_policies`: the evaluation of the round's own policy, with which the others are compared."""


class Finding(StrEnum):
    """Whether one of two is better, as far as the problems tell."""

    YES = "yes"
    """The interval of the difference is above 0."""
    NO = "no"
    """It is below 0: the other one is better."""
    OPEN = "not told apart"
    """It holds 0."""


def finding(difference: PairedDifference) -> Finding:
    """What a difference says of the one that was subtracted from."""
    if not difference.significant:
        return Finding.OPEN
    return Finding.YES if difference.interval.low > 0 else Finding.NO


def make_samples(
    recipe: RoundRecipe,
    console: Console,
    folder: Path,
    inputs: Mapping[str, Path],
    *,
    workplace: Workplace = HERE,
) -> dict[str, Any]:
    """Verified samples of `model` for every training problem: as many as the tokens of `search` pay for, on average.

    What a sample costs is the mean over the first one of each problem.
    """
    problems = read_problems(inputs["problems"] / TRAIN).problems
    searched = read_manifest(inputs["search"])
    assert searched is not None, f"{inputs['search']} is complete"
    store = Store.create(folder / STORE)
    energy = EnergyMeter()

    def sample(num_samples: int) -> int:
        """The tokens of so many samples of every problem."""
        faults = search_into_store(
            problems, model=inputs["model"], store=store, round_index=recipe.round_index, label="rejection sampling",
            search=single_sample(recipe.search), sandbox=recipe.sandbox, grading=recipe.grading, engine=recipe.engine,
            prompt_format=recipe.prompt_format, seed=recipe.stage_seed("samples"), tree_indices=range(num_samples),
            progress_file=folder / "progress.json", console=console, open_searcher=workplace.open_searcher,
        )  # fmt: skip
        refuse_faults(asyncio.run(faults))
        return sum(r.num_tokens for r in store.records(recipe.round_index) if r.tree_index < num_samples)

    num_samples = max(1, round(searched.summary["tokens"] / max(1, sample(1))))
    sample(num_samples)
    health = search_health(store.trees(recipe.round_index), {p.id: p.level for p in problems})
    return {
        "samples_per_problem": num_samples,
        "search_tokens": searched.summary["tokens"],
        **health.summary(),
        "joules": energy.joules(),
    }


def make_policies(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Greedy pass@1 by training set: `inputs` are evaluations on the same problems, one of them named `METHOD`."""
    found = {name: outcomes(path / STORE) for name, path in inputs.items()}
    rates = {
        name: {rate.level: rate for rate in pass_rates(one.values(), levels=LEVELS)}
        for name, one in found.items()
    }
    table: dict[str, Any] = {}
    for level in rates[METHOD]:
        ids = [problem_id for problem_id, (of, _) in found[METHOD].items() if level in (of, ALL_LEVELS)]
        solved = {name: [float(one[problem_id][1]) for problem_id in ids] for name, one in found.items()}
        over = {
            name: paired_difference(right, solved[METHOD], seed=recipe.seed)
            for name, right in solved.items() if name != METHOD
        }  # fmt: skip
        table[level] = {
            "pass_rates": {name: _plain_rate(one[level]) for name, one in rates.items()},
            "over": {name: {**plain_difference(one), "finding": finding(one)} for name, one in over.items()},
        }
    return {"compared": METHOD, "levels": table}


def _plain_rate(rate: PassRate) -> dict[str, float]:
    return {"accuracy": rate.rate, "low": rate.interval.low, "high": rate.interval.high}


def make_value_models(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Value models at equal tokens; nothing is searched or sampled again.

    `inputs`: the stage `scaling`, whose samples are scored by `ppm`, `pqm` and `orm` and compared with its searches;
    `system` and `pqm_system`, searches with the first two; `problems`, `policy`, `evaluation`, as those stages had.
    """
    seed = evaluation_seed(recipe)
    scaling = inputs["scaling"]
    searches, ppm, pqm = (
        Evaluation(by_problem(read_attempts(path / ATTEMPTS)), seed=seed)
        for path in (scaling, inputs["system"], inputs["pqm_system"])
    )
    compared = compare_with_samples(
        recipe, folder, inputs, searches, Store(scaling / SAMPLES), read_attempts(scaling / samples_file(VALUE_MODELS[0]))
    )  # fmt: skip
    orm = Evaluation(by_problem(read_attempts(folder / samples_file("orm"))), seed=seed)
    return {"value_models": value_models(ppm, pqm, orm, seed=seed), **compared}


def value_models(ppm: Evaluation, pqm: Evaluation, orm: Evaluation, *, seed: int) -> dict[str, Any]:
    """By level: is PPM > PQM > ORM (table 8), the answer being that of the best-scored trajectory?

    `ppm` and `pqm` are searches alike but for the model, compared at all their trees; `orm` are samples, of which each is
    compared with as many as its tokens pay for.
    """
    trees = ppm.num_trees
    table: dict[str, Any] = {}
    for level, ids in ppm.levels(LEVELS).items():
        points = [one.point(ids, Method.BEST, trees) for one in (ppm, pqm)]
        right = [[one.outcome(problem_id, Method.BEST, trees) for problem_id in ids] for one in (pqm, ppm)]
        difference = paired_difference(*right, seed=seed)
        over = {
            "ppm_over_pqm": Comparison(search=points[0], baseline=points[1], difference=difference, exhausted=False),
            **{
                f"{name}_over_orm": at_equal_tokens(
                    one, orm, ids, methods=(Method.BEST, Method.BEST), num_trees=trees, seed=seed
                )
                for name, one in (("ppm", ppm), ("pqm", pqm))
            },
        }  # fmt: skip
        found = {name: finding(one.difference) for name, one in over.items()}
        table[level] = {
            "searches": {name: plain_point(point) for name, point in zip(("ppm", "pqm"), points, strict=True)},
            **{name: {**plain_comparison(one), "finding": found[name]} for name, one in over.items()},
            "ordering": ordering(found),
        }  # fmt: skip
    return table


def ordering(found: Mapping[str, Finding]) -> Finding:
    """Whether PPM > PQM > ORM: refuted by any pair that is the other way round, shown by both of its steps."""
    if Finding.NO in found.values():
        return Finding.NO
    steps = {found["ppm_over_pqm"], found["pqm_over_orm"]}
    return Finding.YES if steps == {Finding.YES} else Finding.OPEN
