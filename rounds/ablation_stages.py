"""The ablations of a round as a graph: its own stages, each with one part replaced, in folders below `ablations`.

    search ─┬▶ pqm/model, orm/model ─▶ pqm/system ─▶ scaling        what guides and selects (the paper's table 8)
            ├▶ random/sft_set ──────▶ policy ─▶ evaluation ─┐
            └▶ rejection/samples ─▶ sft_set ─▶ policy ─▶ evaluation ─▶ policies      what is learned from (table 7)

Seeds and all other settings are the round's, so that each result is paired with the round's own. The rounds know nothing
of their ablations: the report with them is one more stage, and no round becomes stale by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from policy.config import Choice
from ppm.config import Objective
from rounds.ablations import METHOD, make_policies, make_samples, make_value_models
from rounds.driver import Stage
from rounds.evaluation import evaluation_seed, make_system_evaluation, single_sample
from rounds.recipe import RoundRecipe
from rounds.reporting import make_report
from rounds.searching import make_evaluation
from rounds.stages import RoundStages, labelled_trees, scaling_stage, search_settings
from rounds.training import make_policy, make_ppm, make_sft_set
from rounds.workplace import HERE, Workplace
from rstar.config import require, to_plain

FOLDER = "ablations"


def ablation_stages(
    recipes: Sequence[RoundRecipe],
    before: Sequence[Stage],
    *,
    complete: bool = False,
    arguments: str = "",
    workplace: Workplace = HERE,
) -> list[Stage]:
    """The ablations of the last round of `recipes`, in order; `before` are all stages of these rounds.

    `complete`: these are all rounds of the recipe, so the command needs not say which. `arguments` is what follows `make ablations` in the command of the report. Raises ConfigError for a round that does
    not have the parts that they replace.
    """
    recipe = recipes[-1]
    objective, choice = recipe.ppm.objective, recipe.sft_set.choice
    require(
        objective is Objective.PPM, "ppm.objective", str(objective), "ppm, for others to be compared with it"
    )
    require(choice is Choice.TOP_MEAN_Q, "sft_set.choice", str(choice), "top_mean_q, for others to be compared with it")  # fmt: skip
    last = RoundStages.among(before, recipe.round_index)
    made = {stage.name: stage for stage in before if not stage.name.endswith("/report")}
    new: list[Stage] = []
    scaling = made.get("scaling")
    if scaling is None:
        scaling = scaling_stage(
            recipe, f"round{recipe.round_index}/scaling", made["problems"], last, workplace
        )
        new.append(scaling)
    searches = [made[f"round{one.round_index}/search"] for one in recipes]
    value_models = _value_models(recipe, last, scaling, searches, workplace)
    policies = _policies(recipe, last, workplace)
    new += [*value_models, *policies]
    which = "" if complete else f" LAST={recipe.round_index}"
    command = f"make ablations{which}{arguments}"
    report = Stage(
        name=f"{FOLDER}/report",
        purpose="the report of all rounds, with the ablations",
        settings={"command": command},
        seed=recipe.seed,
        inputs={**made, **{stage.name: stage for stage in new}},
        work=partial(make_report, recipes, command),
    )
    return [*new, report]


def _value_models(
    recipe: RoundRecipe,
    last: RoundStages,
    scaling: Stage,
    searches: Sequence[Stage],
    workplace: Workplace,
) -> list[Stage]:
    """Baselines of the preference model, trained from the same policy and trees, and what they are worth."""

    def model(objective: Objective, purpose: str) -> Stage:
        return replace(
            last.ppm,
            name=f"{FOLDER}/{objective}/model",
            purpose=purpose,
            settings={"ppm": last.ppm.settings["ppm"] | {"objective": str(objective)}},
            inputs={**last.ppm.inputs, **labelled_trees(recipe, searches)},
            work=partial(
                make_ppm, replace(recipe, ppm=replace(recipe.ppm, objective=objective)), workplace=workplace
            ),
        )

    pqm = model(Objective.PQM, "the policy trained to give the Q-values of steps")
    orm = model(Objective.ORM, "the policy trained to tell right solutions from wrong ones")
    models = f"{last.policy.name} with {pqm.name}"
    system = replace(
        last.system,
        name=f"{FOLDER}/pqm/system",
        purpose=f"{models} on held-out problems",
        inputs={**last.system.inputs, "ppm": pqm},
        work=partial(make_system_evaluation, recipe, Console(stderr=True), models, workplace=workplace),
    )
    compared = Stage(
        name=f"{FOLDER}/scaling",
        purpose="PPM, PQM and ORM at equal tokens",
        settings={},
        seed=evaluation_seed(recipe),
        inputs={**scaling.inputs, "scaling": scaling, "system": last.system, "pqm": pqm, "orm": orm, "pqm_system": system},
        work=partial(make_value_models, recipe),
    )  # fmt: skip
    return [pqm, orm, system, compared]


def _policies(recipe: RoundRecipe, last: RoundStages, workplace: Workplace) -> list[Stage]:
    """Policies trained alike on other verified solutions, and what they are worth alone."""
    at_random = replace(recipe, sft_set=replace(recipe.sft_set, choice=Choice.RANDOM))
    console = Console(stderr=True)
    problems, searching_model = (last.search.inputs[name] for name in ("problems", "model"))
    samples = Stage(
        name=f"{FOLDER}/rejection/samples",
        purpose="verified samples of the policy that searched, for as many tokens",
        settings=search_settings(recipe, single_sample(recipe.search)),
        seed=recipe.stage_seed("samples"),
        inputs={"problems": problems, "model": searching_model, "search": last.search},
        work=partial(make_samples, recipe, console, workplace=workplace),
    )

    def trained(name: str, purpose: str, search: Stage) -> list[Stage]:
        here = f"{FOLDER}/{name}"
        sft_set = replace(
            last.sft_set,
            name=f"{here}/sft_set",
            purpose=purpose,
            settings={"sft_set": to_plain(at_random.sft_set)},
            inputs={**last.sft_set.inputs, "search": search},
            work=partial(make_sft_set, at_random),
        )
        policy = replace(
            last.policy,
            name=f"{here}/policy",
            inputs={**last.policy.inputs, "sft_set": sft_set},
            work=partial(make_policy, recipe, workplace=workplace),
        )
        evaluation = replace(
            last.evaluation,
            name=f"{here}/evaluation",
            inputs={**last.evaluation.inputs, "model": policy},
            work=partial(make_evaluation, recipe, console, name, workplace=workplace),
        )
        return [sft_set, policy, evaluation]

    random = trained("random", "correct trajectories of the search, at random", last.search)
    rejection = trained("rejection", "correct samples, at random", samples)
    compared = Stage(
        name=f"{FOLDER}/policies",
        purpose="policies by what they were trained on",
        settings={},
        seed=recipe.seed,
        inputs={METHOD: last.evaluation, "random": random[-1], "rejection": rejection[-1]},
        work=partial(make_policies, recipe),
    )
    return [*random, samples, *rejection, compared]
