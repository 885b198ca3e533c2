"""The stages of a run as a graph: what each is made from, with which settings and seed.

    problems ─▶ search ─┬▶ sft_set ─▶ policy ─┬▶ evaluation
       base ─▶          └▶ pairs ─────────────┴▶ ppm ─▶ system, ppm_evaluation; after the last round: scaling

The next round's search asks this round's policy and, where it guides, this round's ppm. Every policy is trained from the
base model, every ppm from its round's policy. `driver` orders the stages and skips what is finished; stopped anywhere and
run again, each continues what it finds in its folder and ends in the same result.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ppm.config import Objective
from rounds.artifact import hash_model
from rounds.driver import ExternalInput, Stage
from rounds.evaluation import evaluation_seed, make_scaling, make_system_evaluation
from rounds.pools import file_hashes, make_problems
from rounds.recipe import EMBEDDED, RoundRecipe
from rounds.reporting import make_report
from rounds.searching import EARLIER, make_evaluation, make_search
from rounds.training import earlier, make_pairs, make_policy, make_ppm, make_sft_set
from rounds.workplace import HERE, Workplace
from rstar.config import Guidance, SearchConfig, greedy, require, to_plain
from rstar.engines import Backend
from rstar.training.config import HOW_IT_IS_SPREAD

_SPEED_ONLY = {
    "sandbox": ("num_shards", "max_running", "max_snapshots", "snapshot_memory_mb", "strict", "allow_unsafe"),
    "grading": ("num_workers", "cache_size"),
    "sft": (*HOW_IT_IS_SPREAD, "save_steps"),
    "ppm": HOW_IT_IS_SPREAD,
}
"""Settings that decide how fast a stage is, never what it makes: changing one makes nothing stale."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundStages:
    """What one round makes, in the order in which it is made."""

    search: Stage
    sft_set: Stage
    policy: Stage
    pairs: Stage
    ppm: Stage
    evaluation: Stage
    system: Stage
    ppm_evaluation: Stage | None
    """The round's ppm with the policy of round 1, which in round 1 is the system itself."""

    def __iter__(self) -> Iterator[Stage]:
        stages = (getattr(self, field.name) for field in dataclasses.fields(self))
        return (stage for stage in stages if stage is not None)

    @classmethod
    def among(cls, stages: Sequence[Stage], round_index: int) -> RoundStages:
        """Those of a round, by their names."""
        made = {stage.name: stage for stage in stages}
        names = [field.name for field in dataclasses.fields(cls)]
        found: dict[str, Any] = {name: made.get(f"round{round_index}/{name}") for name in names}
        return cls(**found)


def base_model(recipe: RoundRecipe) -> Path:
    """The folder of the recipe's base model."""
    if recipe.base == EMBEDDED:
        return Path(__file__).parent / "base"
    return Path(recipe.base)


def stages_by_round(
    recipes: Sequence[RoundRecipe],
    *,
    complete: bool = False,
    arguments: str = "",
    workplace: Workplace = HERE,
) -> list[list[Stage]]:
    """The stages of rounds 1, 2, ... of `recipes`, a list per round, in order; the first has what precedes all rounds.

    `complete`: the last of them is the recipe's last, so `scaling` follows. `arguments` is what follows `make round1` in
    the commands of the reports; `workplace` says where the work is done. Raises ConfigError for a base model or a problem file that cannot be read, and for
    settings that do not fit the base model.
    """
    console = Console(stderr=True)
    first = recipes[0]
    base = ExternalInput(folder=base_model(first), fingerprint=hash_model(base_model(first)))
    _check_lengths(recipes, base.folder)
    problems = Stage(
        name="problems",
        purpose="problems to train on, and held-out ones",
        settings={"problems": to_plain(first.problems), "files": file_hashes(first)},
        seed=first.seed,
        work=partial(make_problems, first),
    )
    base_evaluation = Stage(
        name="base/evaluation",
        purpose="the base model alone on held-out problems",
        settings=search_settings(first, greedy(first.search)),
        seed=first.seed,
        inputs={"problems": problems, "model": base},
        work=partial(make_evaluation, first, console, "base", workplace=workplace),
    )
    rounds: list[RoundStages] = []
    stages: list[list[Stage]] = []
    for recipe in recipes:
        rounds.append(_round(recipe, base, problems, rounds, console, workplace))
        scaling = (
            [scaling_stage(recipe, "scaling", problems, rounds[-1], workplace)]
            if complete and recipe is recipes[-1]
            else []
        )
        everything = [problems, base_evaluation, *(stage for one in rounds for stage in one), *scaling]
        command = f"make round{recipe.round_index}{arguments}"
        report = Stage(
            name=f"round{recipe.round_index}/report",
            purpose="tables and plots, beside the paper's figures",
            settings={"command": command},
            seed=recipe.seed,
            inputs={stage.name: stage for stage in everything},
            work=partial(make_report, recipes[: recipe.round_index], command),
        )
        stages.append([*rounds[-1], *scaling, report])
    stages[0] = [problems, base_evaluation, *stages[0]]
    return stages


def _round(
    recipe: RoundRecipe,
    base: ExternalInput,
    problems: Stage,
    before: Sequence[RoundStages],
    console: Console,
    workplace: Workplace,
) -> RoundStages:
    """The stages of one round but its report; `before` are those of the earlier rounds."""
    here = f"round{recipe.round_index}"
    searched: dict[str, Stage | ExternalInput] = {
        "problems": problems, "model": before[-1].policy if before else base
    }  # fmt: skip
    if recipe.search_model is not None:
        folder = Path(recipe.search_model)
        searched["model"] = ExternalInput(folder=folder, fingerprint=hash_model(folder))
    further: dict[str, Any] = {"unsolved": to_plain(recipe.unsolved)}
    if recipe.search_engine is not None and recipe.search_engine.backend is Backend.OPENAI:
        further["server"] = recipe.search_engine.openai.decisive()
    if recipe.search.guidance is Guidance.PPM:
        searched["ppm"] = before[-1].ppm
    if recipe.mastered_rollouts is not None and len(before) >= len(EARLIER):
        further["mastered_rollouts"] = recipe.mastered_rollouts
        searched |= {name: one.search for name, one in zip(EARLIER, reversed(before), strict=False)}
    search = Stage(
        name=f"{here}/search",
        purpose="trees over the training problems",
        settings=search_settings(recipe, recipe.search) | {"prompt_format": recipe.searched_format} | further,
        seed=recipe.stage_seed("search"),
        inputs=searched,
        work=partial(make_search, recipe, console, workplace=workplace),
    )
    sft_set = Stage(
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
        inputs={"sft_set": sft_set, "base": base},
        work=partial(make_policy, recipe, workplace=workplace),
    )
    pairs = Stage(
        name=f"{here}/pairs",
        purpose="better and worse steps after the same prefix",
        settings={"pairs": to_plain(recipe.pairs)},
        inputs={"search": search, "base": base},
        work=partial(make_pairs, recipe),
    )
    drawn_from: dict[str, Stage | ExternalInput] = {"pairs": pairs, "policy": policy}
    if recipe.earlier_pairs:
        drawn_from |= {earlier("pairs", index): one.pairs for index, one in enumerate(before, 1)}
    if recipe.ppm.objective is not Objective.PPM:
        drawn_from |= labelled_trees(recipe, [*(one.search for one in before), search])
    ppm = Stage(
        name=f"{here}/ppm",
        purpose="the policy trained to tell them apart",
        settings={"ppm": _decisive(recipe, "ppm")},
        seed=recipe.stage_seed("ppm"),
        inputs=drawn_from,
        work=partial(make_ppm, recipe, workplace=workplace),
    )
    evaluation = Stage(
        name=f"{here}/evaluation",
        purpose="the trained policy alone on held-out problems",
        settings=search_settings(recipe, greedy(recipe.search)),
        seed=recipe.seed,
        inputs={"problems": problems, "model": policy},
        work=partial(make_evaluation, recipe, console, f"r{recipe.round_index}", workplace=workplace),
    )
    system = _searched_evaluation(recipe, f"{here}/system", problems, policy, ppm, console, workplace)
    fixed_policy = None
    if before:
        fixed_policy = _searched_evaluation(
            recipe, f"{here}/ppm_evaluation", problems, before[0].policy, ppm, console, workplace
        )
    return RoundStages(
        search=search, sft_set=sft_set, policy=policy, pairs=pairs, ppm=ppm, evaluation=evaluation, system=system,
        ppm_evaluation=fixed_policy,
    )  # fmt: skip


def labelled_trees(recipe: RoundRecipe, searches: Sequence[Stage]) -> dict[str, Stage]:
    """Inputs of a baseline of the preference model: the trees that the pairs are drawn from, given those of each round."""
    *before, own = searches
    found = (
        {earlier("search", index): one for index, one in enumerate(before, 1)} if recipe.earlier_pairs else {}
    )
    return {"search": own, **found}


def _searched_evaluation(
    recipe: RoundRecipe,
    name: str,
    problems: Stage,
    policy: Stage,
    ppm: Stage,
    console: Console,
    workplace: Workplace,
) -> Stage:
    models = f"{policy.name} with {ppm.name}"
    return Stage(
        name=name,
        purpose=f"{models} on held-out problems",
        settings=_inference_settings(recipe) | {"num_trajectories": recipe.evaluation.num_trajectories},
        seed=evaluation_seed(recipe),
        inputs={"problems": problems, "policy": policy, "ppm": ppm},
        work=partial(make_system_evaluation, recipe, console, models, workplace=workplace),
    )


def _check_lengths(recipes: Sequence[RoundRecipe], base: Path) -> None:
    """What a preference model's training would find out only after a search and a policy's training."""
    context = json.loads((base / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    for recipe in recipes:
        length = recipe.ppm.max_length
        require(
            context is None or length <= context,
            "ppm.max_length",
            length,
            f"at most the base model's {context}",
        )


def scaling_stage(
    recipe: RoundRecipe, name: str, problems: Stage, last: RoundStages, workplace: Workplace
) -> Stage:
    """The stage `scaling` of one round."""
    numbers = {name: getattr(recipe.evaluation, name) for name in ("max_trajectories", "num_samples")}
    return Stage(
        name=name,
        purpose="accuracy against tokens: searches, and samples of the policy alone",
        settings=_inference_settings(recipe) | numbers,
        seed=evaluation_seed(recipe),
        inputs={
            "problems": problems, "policy": last.policy, "ppm": last.ppm, "evaluation": last.evaluation,
        },
        work=partial(make_scaling, recipe, Console(stderr=True), "scaling", workplace=workplace),
    )  # fmt: skip


def _inference_settings(recipe: RoundRecipe) -> dict[str, Any]:
    evaluated = {"evaluated": to_plain(recipe.evaluation.problems)}
    return search_settings(recipe, recipe.evaluation.search) | evaluated


def search_settings(recipe: RoundRecipe, search: SearchConfig) -> dict[str, Any]:
    """What decides the trees of a search, apart from problems, models and seed."""
    return {
        "search": to_plain(search),
        "sandbox": _decisive(recipe, "sandbox"),
        "grading": _decisive(recipe, "grading"),
        "prompt_format": recipe.prompt_format,
    }


def _decisive(recipe: RoundRecipe, section: str) -> dict[str, Any]:
    """A section's settings without those that only decide speed."""
    values: dict[str, Any] = to_plain(getattr(recipe, section))
    return {key: value for key, value in values.items() if key not in _SPEED_ONLY[section]}
