"""The full system on held-out problems: inference searches and samples, graded after they have ended, never before.

    problems, policy, ppm ─▶ system, ppm_evaluation   accuracy by level and by how the answer is selected
                          ─▶ scaling                  curves over trees and samples, compared at equal token budgets

The stores are resumable; what is derived from them is written anew by every run. What is computed is in
`policy.evaluate`, what each number means in docs/evaluation.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from policy.attempts import ATTEMPTS, Attempt, attempts_of, by_problem, grade, rescored, write_attempts
from policy.evaluate import Comparison, Evaluation, Point, at_equal_tokens, doublings
from policy.statistics import PairedDifference
from rounds.artifact import STORE
from rounds.curriculum import Level
from rounds.pools import EVALUATION, TRAIN
from rounds.recipe import RoundRecipe
from rounds.searching import refuse_faults, value_model
from rounds.workplace import HERE, Workplace
from rstar.campaign import search_into_store
from rstar.config import SearchConfig, greedy
from rstar.energy import EnergyMeter
from rstar.errors import ConfigError
from rstar.grading import Grader, GraderConfig
from rstar.problems import Problem, normalised_question, read_problems
from rstar.prompts import FORMATS
from rstar.seeds import derive
from rstar.selection import UNSCORED, Method
from rstar.store import Store

LEVELS = [str(level) for level in Level]
SAMPLES = "samples"
"""Folder of the second store of `scaling`."""
VALUE_MODELS = ("ppm", "orm", "pqm")
"""Names of the inputs that score samples; the first also guides the search of `scaling`."""
COMPARED = (Method.BEST, Method.WEIGHTED_VOTE, Method.TOP_VOTE, Method.MAJORITY)
"""Selections that are compared at equal tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Baseline:
    """Samples of the policy, and how an answer is selected among them."""

    samples: Evaluation
    method: Method


def held_out(recipe: RoundRecipe, problems: Path) -> list[Problem]:
    """The first so many held-out problems of each level that the recipe searches. Raises ConfigError if there are none."""
    wanted = recipe.evaluation.problems
    met: Counter[str] = Counter()
    chosen = []
    for problem in read_problems(problems / EVALUATION).problems:
        met[problem.level] += 1
        if not wanted or met[problem.level] <= wanted.get(problem.level, 0):
            chosen.append(problem)
    if not chosen:
        raise ConfigError(
            f"evaluation.problems is {wanted}: it takes none of the held-out problems; their levels are {', '.join(met)}"
        )
    return chosen


def check_contamination(problems: Path, evaluated: Iterable[Problem]) -> dict[str, int]:
    """How many questions were evaluated, trained on, and both, but for case, white space and Unicode form. Raises
    ConfigError, naming one, unless the last is 0."""
    seen = {normalised_question(problem.question) for problem in read_problems(problems / TRAIN).problems}
    questions = {normalised_question(problem.question): problem.id for problem in evaluated}
    if shared := sorted(seen & questions.keys()):
        raise ConfigError(
            f"{len(shared)} evaluation questions are also training questions, {questions[shared[0]]} among them; "
            "take them out"
        )
    return {"evaluated": len(questions), "trained_on": len(seen), "both": len(shared)}


def evaluation_seed(recipe: RoundRecipe) -> int:
    """The seed of held-out searches and samples: the same in every round, so that rounds differ by their models alone."""
    return derive(recipe.seed, "evaluation")


def single_sample(search: SearchConfig) -> SearchConfig:
    """The search whose tree is one sample: one rollout of one candidate a step, at the temperature of `search`."""
    return dataclasses.replace(greedy(search), sampling=search.sampling)


def make_system_evaluation(
    recipe: RoundRecipe,
    console: Console,
    label: str,
    folder: Path,
    inputs: Mapping[str, Path],
    *,
    workplace: Workplace = HERE,
) -> dict[str, Any]:
    """Inference search with `policy` and `ppm` over held-out problems, `evaluation.num_trajectories` trees each."""
    energy = EnergyMeter()
    problems = held_out(recipe, inputs["problems"])
    contamination = check_contamination(inputs["problems"], problems)
    num_trees = recipe.evaluation.num_trajectories
    store = _search(recipe, console, label, folder / STORE, problems, inputs, num_trees, workplace)
    attempts = _graded(store, recipe.grading, problems)
    write_attempts(folder / ATTEMPTS, attempts)
    searches = Evaluation(by_problem(attempts), seed=evaluation_seed(recipe))
    return {
        **_facts(searches, store),
        "contamination": contamination,
        "accuracy": {
            level: {str(method): plain_point(searches.point(ids, method, num_trees)) for method in Method}
            for level, ids in searches.levels(LEVELS).items()
        },
        "joules": energy.joules(),
    }


def make_scaling(
    recipe: RoundRecipe,
    console: Console,
    label: str,
    folder: Path,
    inputs: Mapping[str, Path],
    *,
    workplace: Workplace = HERE,
) -> dict[str, Any]:
    """Accuracy against tokens: `evaluation.max_trajectories` searches and `evaluation.num_samples` samples per problem.

    The samples are scored by each input named in `VALUE_MODELS`. An input `evaluation`, the policy's greedy trees, is
    one more baseline.
    """
    energy = EnergyMeter()
    problems = held_out(recipe, inputs["problems"])
    contamination = check_contamination(inputs["problems"], problems)
    seed = evaluation_seed(recipe)
    store = _search(
        recipe,
        console,
        label,
        folder / STORE,
        problems,
        inputs,
        recipe.evaluation.max_trajectories,
        workplace,
    )
    attempts = _graded(store, recipe.grading, problems)
    write_attempts(folder / ATTEMPTS, attempts)
    searches = Evaluation(by_problem(attempts), seed=seed)

    sampled = _search(
        recipe, console, f"{label}, samples", folder / SAMPLES, problems, inputs, recipe.evaluation.num_samples,
        workplace, sampling=True,
    )  # fmt: skip
    unscored = _graded(sampled, recipe.grading, problems)
    return {
        **_facts(searches, store, sampled),
        "contamination": contamination,
        **compare_with_samples(recipe, folder, inputs, searches, sampled, unscored),
        "joules": energy.joules(),
    }


def compare_with_samples(
    recipe: RoundRecipe,
    folder: Path,
    inputs: Mapping[str, Path],
    searches: Evaluation,
    sampled: Store,
    answers: list[Attempt],
) -> dict[str, Any]:
    """Curves, and comparisons at equal token budgets, of searches with the samples in a store; `answers` are the graded
    answers of those. They are scored by each input named in `VALUE_MODELS` and written to the folder."""
    seed = evaluation_seed(recipe)
    baselines: dict[str, Baseline] = {}
    for name in (name for name in VALUE_MODELS if name in inputs):
        scored = rescored(answers, asyncio.run(_scores(recipe, sampled, inputs["policy"], inputs[name])))
        write_attempts(folder / samples_file(name), scored)
        samples = Evaluation(by_problem(scored), seed=seed)
        for method in (Method.PASS, *COMPARED):
            key = str(method) if method in UNSCORED else f"{method}:{name}"
            baselines.setdefault(key, Baseline(samples, method))
    if "evaluation" in inputs:
        problems = held_out(recipe, inputs["problems"])
        alone = _graded(Store(inputs["evaluation"] / STORE), recipe.grading, problems)
        baselines["greedy"] = Baseline(Evaluation(by_problem(alone), seed=seed), Method.PASS)
    return {
        "curves": curves(searches, baselines),
        "equal_tokens": equal_tokens(searches, baselines, seed=seed),
    }


def samples_file(value_model: str) -> str:
    """Name of the file with the samples as a value model scored them."""
    return f"samples-{value_model}.jsonl"


def curves(searches: Evaluation, baselines: Mapping[str, Baseline]) -> dict[str, Any]:
    """By level, for searches by method and for samples by baseline: points at 1, 2, 4, … trees."""
    return {
        level: {
            "search": {str(method): [*map(plain_point, searches.curve(ids, method))] for method in Method},
            "samples": {
                name: [*map(plain_point, baseline.samples.curve(ids, baseline.method))]
                for name, baseline in baselines.items()
            },
        }
        for level, ids in searches.levels(LEVELS).items()
    }


def equal_tokens(searches: Evaluation, baselines: Mapping[str, Baseline], *, seed: int) -> dict[str, Any]:
    """By level and selection of the search: for 1, 2, 4, … trees the point, and each baseline at its tokens. Pass@k is
    no baseline: it selects nothing."""
    table: dict[str, Any] = {}
    for level, ids in searches.levels(LEVELS).items():
        table[level] = {str(method): [] for method in COMPARED}
        for method in COMPARED:
            for num_trees in doublings(searches.num_trees):
                compared = {
                    name: at_equal_tokens(
                        searches, baseline.samples, ids,
                        methods=(method, baseline.method), num_trees=num_trees, seed=seed,
                    )
                    for name, baseline in baselines.items() if name != Method.PASS
                }  # fmt: skip
                row = {name: plain_comparison(comparison) for name, comparison in compared.items()}
                point = plain_point(searches.point(ids, method, num_trees))
                table[level][str(method)].append({**point, "baselines": row})
    return table


def plain_point(point: Point) -> dict[str, Any]:
    """A point as JSON."""
    return {
        "num_trees": point.num_trees, "tokens": point.tokens, "accuracy": point.accuracy,
        "low": point.interval.low, "high": point.interval.high,
    }  # fmt: skip


def plain_comparison(comparison: Comparison) -> dict[str, Any]:
    """A baseline's point as JSON, and by how much the search is above it."""
    return {
        **plain_point(comparison.baseline),
        "exhausted": comparison.exhausted,
        **plain_difference(comparison.difference),
    }


def plain_difference(found: PairedDifference) -> dict[str, float]:
    """A difference as JSON."""
    return {
        "difference": found.difference,
        "difference_low": found.interval.low,
        "difference_high": found.interval.high,
    }


def _facts(searches: Evaluation, *stores: Store) -> dict[str, Any]:
    """What every summary says."""
    return {
        "problems": {level: len(ids) for level, ids in searches.levels(LEVELS).items()},
        "trees_per_problem": searches.num_trees,
        "tokens": sum(record.num_tokens for store in stores for record in store.records()),
    }


def _search(
    recipe: RoundRecipe,
    console: Console,
    label: str,
    folder: Path,
    problems: list[Problem],
    inputs: Mapping[str, Path],
    num_trees: int,
    workplace: Workplace,
    *,
    sampling: bool = False,
) -> Store:
    """So many trees of each problem without its reference answer, in a store: guided by the input `ppm`, or samples.

    Raises StageError if trees were parked.
    """
    search = single_sample(recipe.evaluation.search) if sampling else recipe.evaluation.search
    store = Store.create(folder)

    async def search_all() -> list[str]:
        return await search_into_store(
            problems, model=inputs["policy"], store=store, round_index=recipe.round_index, label=label, search=search,
            sandbox=recipe.sandbox, grading=recipe.grading, engine=recipe.engine, prompt_format=recipe.prompt_format,
            seed=derive(evaluation_seed(recipe), folder.name),
            open_value=None if sampling else partial(value_model, inputs["ppm"].absolute(), recipe.engine),
            tree_indices=range(num_trees), reference=False,
            progress_file=folder.with_name(f"{folder.name}-progress.json"), console=console, open_searcher=workplace.open_searcher,
        )  # fmt: skip

    refuse_faults(asyncio.run(search_all()))
    return store


def _graded(store: Store, grading: GraderConfig, problems: list[Problem]) -> list[Attempt]:
    """The answers of all trees of these problems, graded against the reference now that the search is over."""
    levels = {problem.id: problem.level for problem in problems}

    async def graded() -> list[Attempt]:
        trees = store.trees(problem_ids=levels)
        async with Grader(grading) as grader:
            return await grade(
                [one for tree in trees for one in attempts_of(tree, levels[tree.problem_id])],
                problems,
                grader,
            )

    return asyncio.run(graded())


async def _scores(
    recipe: RoundRecipe, store: Store, policy: Path, model: Path
) -> dict[tuple[str, int], dict[int, float]]:
    """What a value model says of the whole trajectories of a store."""
    from ppm.evaluate import score_trajectories
    from rstar.backends.loading import read_tokenizer

    scorer = value_model(model, recipe.engine)
    try:
        scored = score_trajectories(
            store.trees(), scorer, format=FORMATS[recipe.prompt_format],
            encode=partial(read_tokenizer(policy).encode, add_special_tokens=False),
            max_output_chars=recipe.evaluation.search.max_output_chars,
        )  # fmt: skip
        return {(tree.problem_id, tree.tree_index): scores async for tree, scores in scored}
    finally:
        await scorer.aclose()
