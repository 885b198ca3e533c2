"""The stages of a round: each fills its folder from the folders of its inputs and returns a summary.

    problems ─┬▶ search ─▶ sft_set ─▶ policy ─┐
              └──────────────────────────────┴▶ evaluation ─▶ report

Stopped anywhere and run again, each continues what it finds in its folder and ends in the same result. `driver` orders
them; `round_stages` says which there are, and on what each depends.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from policy.sft_sets import sft_set
from policy.sft_table import read_examples, to_table
from rounds.artifact import hash_model, read_manifest
from rounds.curriculum import Level, Split, generate
from rounds.driver import ExternalInput, Stage
from rounds.health import search_health
from rounds.machine import describe_machine
from rounds.page import write
from rounds.recipe import EMBEDDED, PoolConfig, RoundRecipe
from rounds.report import RoundFacts, RunFacts, choose_tree, choose_unsolved, report
from rstar.campaign import search_into_store
from rstar.config import SearchConfig, greedy, to_plain
from rstar.energy import EnergyMeter
from rstar.errors import ConfigError, StageError
from rstar.problems import Problem, normalised_question, read_problems, write_problems
from rstar.prompts import FORMATS
from rstar.store import Kind, Outcome, Store

TRAIN, EVALUATION = "train.jsonl", "evaluation.jsonl"
STORE = "store"
_SPEED_ONLY = {
    "sandbox": ("num_shards", "max_running", "max_snapshots", "snapshot_memory_mb", "strict", "allow_unsafe"),
    "grading": ("num_workers", "cache_size"),
    "sft": ("num_threads", "save_steps"),
}
"""Settings that decide how fast a stage is, never what it makes: changing one makes nothing stale."""


def base_model(recipe: RoundRecipe) -> Path:
    """The folder of the recipe's base model."""
    if recipe.base == EMBEDDED:
        return Path(__file__).parent / "base"
    return Path(recipe.base)


def round_stages(recipe: RoundRecipe, *, command: str) -> list[Stage]:
    """All stages up to the end of the recipe's round, in order."""
    console = Console(stderr=True)
    base = ExternalInput(folder=base_model(recipe), fingerprint=hash_model(base_model(recipe)))
    search_settings = {
        "search": to_plain(recipe.search),
        "sandbox": _decisive(recipe, "sandbox"),
        "grading": _decisive(recipe, "grading"),
        "prompt_format": recipe.prompt_format,
    }
    here = f"round{recipe.round_index}"
    problems = Stage(
        name="problems",
        purpose="problems to train on, and held-out ones",
        settings={"problems": to_plain(recipe.problems), "files": _file_hashes(recipe)},
        seed=recipe.seed,
        work=partial(make_problems, recipe),
    )
    base_evaluation = Stage(
        name="base/evaluation",
        purpose="the base model alone on held-out problems",
        settings=search_settings,
        seed=recipe.seed,
        inputs={"problems": problems, "model": base},
        work=partial(make_evaluation, recipe, console, "base evaluation"),
    )
    search = Stage(
        name=f"{here}/search",
        purpose="trees over the training problems",
        settings=search_settings,
        seed=recipe.stage_seed("search"),
        inputs={"problems": problems, "model": base},
        work=partial(make_search, recipe, console),
    )
    training_set = Stage(
        name=f"{here}/sft_set",
        purpose="the best verified trajectories",
        settings={"sft_set": to_plain(recipe.sft_set)},
        seed=recipe.stage_seed("sft_set"),
        inputs={"problems": problems, "search": search, "base": base},
        work=partial(make_sft_set, recipe),
    )
    policy = Stage(
        name=f"{here}/policy",
        purpose="the base model trained on them",
        settings={"sft": _decisive(recipe, "sft")},
        seed=recipe.stage_seed("sft"),
        inputs={"sft_set": training_set, "base": base},
        work=partial(make_policy, recipe),
    )
    evaluation = Stage(
        name=f"{here}/evaluation",
        purpose="the trained policy alone on held-out problems",
        settings=search_settings,
        seed=recipe.seed,
        inputs={"problems": problems, "model": policy},
        work=partial(make_evaluation, recipe, console, f"r{recipe.round_index} evaluation"),
    )
    page = Stage(
        name=f"{here}/report",
        purpose="tables and plots, beside the paper's figures",
        settings={"command": command},
        seed=recipe.seed,
        inputs={
            "problems": problems, "base_evaluation": base_evaluation, "search": search,
            "sft_set": training_set, "policy": policy, "evaluation": evaluation,
        },
        work=partial(make_report, recipe, command),
    )  # fmt: skip
    return [problems, base_evaluation, search, training_set, policy, evaluation, page]


def make_problems(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Write the two pools; refuse a question that stands in both."""
    pools = {
        TRAIN: _pool(recipe.problems.train, Split.TRAIN, recipe.seed),
        EVALUATION: _pool(recipe.problems.evaluation, Split.EVAL, recipe.seed),
    }
    for name, pool in pools.items():
        if not pool:
            raise ConfigError(f"problems.{Path(name).stem} is empty; give curriculum counts or files")
        repeated = [problem_id for problem_id, n in Counter(p.id for p in pool).items() if n > 1]
        if repeated:
            raise ConfigError(
                f"problems.{Path(name).stem}: {len(repeated)} ids stand twice, {repeated[0]} among them"
            )
        write_problems(folder / name, pool)
    seen = {normalised_question(problem.question) for problem in pools[TRAIN]}
    shared = [p for p in pools[EVALUATION] if normalised_question(p.question) in seen]
    if shared:
        raise ConfigError(
            f"{len(shared)} evaluation questions are also training questions, {shared[0].id} among them; take them out"
        )
    return {Path(name).stem: _by_level(pool) for name, pool in pools.items()} | {"contaminated": len(shared)}


def _pool(config: PoolConfig, split: Split, seed: int) -> list[Problem]:
    problems: list[Problem] = []
    known = {str(level): level for level in Level}
    for name, count in config.curriculum.items():
        if name not in known:
            raise ConfigError(f"problems: the curriculum has no level {name!r}; it has {', '.join(known)}")
        if count:
            problems += generate(split, known[name], count, seed)
    for file in config.files:
        problems += [p for p in read_problems(Path(file)).problems if p.answer]
    return problems


def make_search(
    recipe: RoundRecipe, console: Console, folder: Path, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """One tree per training problem."""
    problems = read_problems(inputs["problems"] / TRAIN).problems
    label = f"round {recipe.round_index} search"
    store, joules = _search(recipe, console, label, folder, problems, inputs["model"], recipe.search)
    health = search_health(store.trees(recipe.round_index), {p.id: p.level for p in problems})
    return {**health.summary(), "joules": joules}


def make_evaluation(
    recipe: RoundRecipe, console: Console, label: str, folder: Path, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """The policy alone: greedy trees over the held-out problems; pass@1 is the share of verified ones."""
    problems = read_problems(inputs["problems"] / EVALUATION).problems
    store, joules = _search(recipe, console, label, folder, problems, inputs["model"], greedy(recipe.search))
    records = store.records(recipe.round_index)
    return {
        "problems": len(records),
        "solved": sum(record.outcome is Outcome.SOLVED for record in records),
        "tokens": sum(record.num_tokens for record in records),
        "joules": joules,
    }


def _search(
    recipe: RoundRecipe,
    console: Console,
    label: str,
    folder: Path,
    problems: Sequence[Problem],
    model: Path,
    search: SearchConfig,
) -> tuple[Store, float | None]:
    """Search into the folder's store; returns it and the joules used. Raises StageError if trees were parked."""
    store = Store.create(folder / STORE)
    energy = EnergyMeter()
    faults = asyncio.run(
        search_into_store(
            problems, model=model, store=store, round_index=recipe.round_index, label=label, search=search,
            sandbox=recipe.sandbox, grading=recipe.grading, engine=recipe.engine, prompt_format=recipe.prompt_format,
            seed=recipe.stage_seed("search"), progress_file=folder / "progress.json", console=console,
        )
    )  # fmt: skip
    if faults:
        raise StageError(f"{len(faults)} of {len(problems)} trees were parked, the first: {faults[0]}")
    return store, energy.joules()


def outcomes(store: Path, round_index: int) -> dict[str, tuple[str, bool]]:
    """Problem id to (level, solved), from an evaluation's store."""
    records = Store(store).records(round_index)
    return {record.problem_id: (record.level, record.outcome is Outcome.SOLVED) for record in records}


def make_sft_set(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The round's supervised examples, and why others were left out."""
    from rstar.backends.loading import read_tokenizer

    problems = read_problems(inputs["problems"] / TRAIN).problems
    tokenizer = read_tokenizer(inputs["base"])
    made = sft_set(
        Store(inputs["search"] / STORE).trees(recipe.round_index),
        problems,
        config=recipe.sft_set,
        format=FORMATS[recipe.prompt_format],
        encode=partial(tokenizer.encode, add_special_tokens=False),
        max_output_chars=recipe.search.max_output_chars,
        seed=recipe.stage_seed("sft_set"),
    )
    shutil.rmtree(folder / STORE, ignore_errors=True)  # of a run that was stopped here; made anew in a moment
    with Store.create(folder / STORE).writer(round=recipe.round_index, settings=recipe.sft_set) as writer:
        writer.write_table(Kind.SFT, to_table(made.examples))
    if not made.examples:
        raise StageError("no problem has a verified solution, so there is nothing to train on")
    dropped: Counter[str] = Counter()
    for counts in made.counts.values():
        dropped.update({str(reason): n for reason, n in counts.dropped.items()})
    return {
        "examples": len(made.examples),
        "examples_by_level": {level: counts.num_examples for level, counts in made.counts.items()},
        "policy_tokens": sum(counts.num_policy_tokens for counts in made.counts.values()),
        "dropped": dict(dropped),
    }


def make_policy(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Fine-tune the base model on the examples."""
    from policy.sft import train

    energy = EnergyMeter()
    result = train(
        read_examples(inputs["sft_set"] / STORE, recipe.round_index),
        base=inputs["base"],
        out=folder,
        config=recipe.sft,
        seed=recipe.stage_seed("sft"),
    )
    return {
        "examples": result.num_examples,
        "steps": result.num_steps,
        "tokens": result.num_tokens * recipe.sft.epochs,
        "first_loss": result.first_loss,
        "final_loss": result.final_loss,
        "losses": list(result.losses),
        "logging_steps": recipe.sft.logging_steps,
        "joules": energy.joules(),
    }


def make_report(
    recipe: RoundRecipe, command: str, folder: Path, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """The page of the run so far."""
    manifests = {}
    for name, path in inputs.items():
        manifest = read_manifest(path)
        assert manifest is not None, f"{name} is complete"
        manifests[name] = manifest
    problems = read_problems(inputs["problems"] / TRAIN).problems
    store = Store(inputs["search"] / STORE)
    hardest = [p.id for p in problems if p.level == Level.OLYMPIAD] or [p.id for p in problems]
    trees = list(store.trees(recipe.round_index, problem_ids=hardest))
    solved = {problem_id for problem_id, _ in store.keys(recipe.round_index, outcomes=[Outcome.SOLVED])}
    facts = RunFacts(
        name=recipe.name,
        seed=recipe.seed,
        problems=manifests["problems"],
        base_evaluation=manifests["base_evaluation"],
        base_outcomes=outcomes(inputs["base_evaluation"] / STORE, recipe.round_index),
        rounds=[
            RoundFacts(
                round_index=recipe.round_index,
                search=manifests["search"],
                sft_set=manifests["sft_set"],
                policy=manifests["policy"],
                evaluation=manifests["evaluation"],
                outcomes=outcomes(inputs["evaluation"] / STORE, recipe.round_index),
                solved_tree=choose_tree(trees),
                unsolved=choose_unsolved(problems, solved, recipe.seed),
            )
        ],
        command=command,
        machine=describe_machine(),
    )
    write(report(facts), folder, "report")
    return {}


def _decisive(recipe: RoundRecipe, section: str) -> dict[str, Any]:
    """A section's settings without those that only decide speed."""
    values: dict[str, Any] = to_plain(getattr(recipe, section))
    return {key: value for key, value in values.items() if key not in _SPEED_ONLY[section]}


def _file_hashes(recipe: RoundRecipe) -> dict[str, str]:
    hashes = {}
    for file in (*recipe.problems.train.files, *recipe.problems.evaluation.files):
        try:
            hashes[file] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"problems: {file} cannot be read: {error.strerror}") from None
    return hashes


def _by_level(problems: Sequence[Problem]) -> dict[str, int]:
    return dict(Counter(problem.level for problem in problems))
