"""Stages that learn from a round's trees: examples and the policy, pairs and the preference model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from policy.sft_sets import sft_set
from policy.sft_table import read_examples
from policy.sft_table import to_table as examples_table
from ppm.config import Objective
from ppm.groups import LabelledGroup, PairGroup, PairKind, PairReport
from ppm.labels import labelled_set
from ppm.pair_table import read_groups
from ppm.pair_table import to_table as pairs_table
from ppm.pairs import pair_set
from rounds.artifact import STORE
from rounds.pools import TRAIN
from rounds.recipe import RoundRecipe
from rounds.workplace import HERE, Workplace
from rstar.energy import EnergyMeter
from rstar.errors import StageError
from rstar.problems import read_problems
from rstar.prompts import FORMATS
from rstar.store import Kind, Outcome, Store

MIN_PROBLEMS = 2
"""With pairs, for a preference model: one to learn from and one to measure."""


def make_sft_set(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The round's supervised examples, and why others were left out."""
    from rstar.backends.loading import read_tokenizer

    problems = read_problems(inputs["problems"] / TRAIN).problems
    tokenizer = read_tokenizer(inputs["base"])
    trees = Store(inputs["search"] / STORE)
    solved = {problem_id for problem_id, _ in trees.keys(recipe.round_index, outcomes=[Outcome.SOLVED])}
    made = sft_set(
        trees.trees(recipe.round_index, problem_ids=solved),
        problems,
        config=recipe.sft_set,
        format=FORMATS[recipe.prompt_format],
        encode=partial(tokenizer.encode, add_special_tokens=False),
        max_output_chars=recipe.search.max_output_chars,
        seed=recipe.stage_seed("sft_set"),
    )
    if not made.examples:
        raise StageError(
            "no verified solution is left to train on; search more or easier problems, or each more "
            "(search.num_rollouts, search.num_candidates), or raise sft_set.max_tokens"
        )
    with _new_store(folder).writer(round=recipe.round_index, settings=recipe.sft_set) as writer:
        writer.write_table(Kind.SFT, examples_table(made.examples))
    dropped: Counter[str] = Counter()
    for counts in made.counts.values():
        dropped.update({str(reason): n for reason, n in counts.dropped.items()})
    return {
        "examples": len(made.examples),
        "examples_by_level": {level: counts.num_examples for level, counts in made.counts.items()},
        "policy_tokens": sum(counts.num_policy_tokens for counts in made.counts.values()),
        "dropped": dict(dropped),
    }


def make_policy(
    recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path], *, workplace: Workplace = HERE
) -> dict[str, Any]:
    """Fine-tune the base model on the examples."""
    from policy.sft import train

    energy = EnergyMeter()
    result = train(
        read_examples(inputs["sft_set"] / STORE, recipe.round_index),
        base=inputs["base"],
        out=folder,
        config=recipe.sft,
        seed=recipe.stage_seed("sft"),
        hosts=workplace.training_hosts(recipe.sft),
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


def make_pairs(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The round's preference pairs, and what became of its trees."""
    trees = Store(inputs["search"] / STORE).trees(recipe.round_index)
    made = pair_set(trees, **_reading(recipe, inputs["base"]))
    with_pairs = {group.problem_id for group in made.groups}
    if len(with_pairs) < MIN_PROBLEMS:
        raise StageError(
            f"preference pairs come from {len(with_pairs)} problems, and a preference model needs those of "
            f"{MIN_PROBLEMS} at least: {_reasons(made.report)}; search more (problems.train, search.num_rollouts, "
            "search.num_candidates), or loosen pairs.min_q_margin, pairs.min_edit_distance or pairs.max_tokens"
        )
    with _new_store(folder).writer(round=recipe.round_index, settings=recipe.pairs) as writer:
        writer.write_table(Kind.PAIRS, pairs_table(sorted(made.groups, key=_tree_of)))
    return {"problems": len(with_pairs), **pair_summary(made.report)}


def pair_summary(report: PairReport) -> dict[str, Any]:
    """A pair report as plain values: keys of counts are texts, bins of margins are named by their lower edge."""
    return {
        "trees": report.num_trees,
        "nodes": report.num_nodes,
        "groups": {str(kind): n for kind, n in sorted(report.num_groups.items())},
        "pairs": {str(kind): n for kind, n in sorted(report.num_pairs.items())},
        "depths": {str(depth): n for depth, n in sorted(report.depths.items())},
        "margins": {f"{edge:.2f}": n for edge, n in sorted(report.margins.items())},
        "common_prefix_share": report.common_prefix_share,
        "dropped": {str(reason): n for reason, n in sorted(report.dropped.items())},
    }


def _reasons(report: PairReport) -> str:
    """What was left out, most frequent first."""
    found = ", ".join(f"{reason} {n}" for reason, n in report.dropped.most_common())
    return (
        f"of {report.num_trees} trees, left out were {found}"
        if found
        else f"there are {report.num_trees} trees"
    )


def earlier(what: str, round_index: int) -> str:
    """Name of the input with the `pairs` or the `search` of an earlier round."""
    return f"{what}{round_index}"


def make_ppm(
    recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path], *, workplace: Workplace = HERE
) -> dict[str, Any]:
    """Train a preference model on the pairs, or a baseline on labels of the trees (the input `search`), of the round and of
    those before it that are inputs, from the round's policy; measure it on the round's own pairs held out."""
    from ppm.evaluate import pair_accuracy
    from ppm.model import load
    from ppm.train import split, train

    energy = EnergyMeter()
    config, seed = recipe.ppm, recipe.stage_seed("ppm")
    own = read_groups(inputs["pairs"] / STORE, recipe.round_index)
    groups = list(own)
    searches = {recipe.round_index: inputs["search"]} if "search" in inputs else {}
    for index in range(1, recipe.round_index):
        if (name := earlier("pairs", index)) in inputs:
            groups += read_groups(inputs[name] / STORE, index)
        if (name := earlier("search", index)) in inputs:
            searches[index] = inputs[name]
    labelled: list[LabelledGroup] = []
    if config.objective is not Objective.PPM:
        reading = _reading(recipe, inputs["policy"])
        for index, path in searches.items():
            trees = Store(path / STORE).trees(index)
            drawn = labelled_set(trees, objective=config.objective, **reading).groups
            labelled += sorted(drawn, key=_tree_of)
    result = train(
        groups,
        base=inputs["policy"],
        out=folder,
        config=config,
        seed=seed,
        labelled=labelled,
        hosts=workplace.training_hosts(config),
    )
    _, held_out = split(groups, share=config.held_out_share, seed=seed)
    if config.objective is Objective.ORM:
        own, held_out = (
            [group for group in part if group.kind is PairKind.FINAL] for part in (own, held_out)
        )
    spared = {group.problem_id for group in held_out}
    held_out = [group for group in own if group.problem_id in spared] or held_out
    found = pair_accuracy(load(folder), held_out, sharing=config.sharing, max_length=config.max_length)
    return {
        "objective": str(config.objective),
        "groups": result.num_groups,
        "pairs": result.num_pairs,
        "held_out_pairs": result.num_held_out_pairs,
        "steps": result.num_steps,
        "best_step": result.best_step,
        "accuracy": found.overall,
        "accuracy_by_step": {str(step): share for step, share in result.accuracies.items()},
        "accuracy_by_kind": {str(kind): share for kind, share in found.by_kind.items()},
        "accuracy_by_depth": {str(depth): share for depth, share in found.by_depth.items()},
        "pairs_by_depth": {str(depth): number for depth, number in found.pairs_by_depth.items()},
        "losses": list(result.losses),
        "logging_steps": config.logging_steps,
        "joules": energy.joules(),
    }


def _tree_of(group: PairGroup | LabelledGroup) -> tuple[str, int]:
    """By which groups are sorted: a store has its trees in the order in which they ended, and that is chance."""
    return group.problem_id, group.tree_index


def _reading(recipe: RoundRecipe, model: Path) -> dict[str, Any]:
    """How the trees of the round are read, for what is drawn from them; `model` has the tokenizer."""
    from rstar.backends.loading import read_tokenizer

    return {
        "config": recipe.pairs,
        "format": FORMATS[recipe.prompt_format],
        "encode": partial(read_tokenizer(model).encode, add_special_tokens=False),
        "max_output_chars": recipe.search.max_output_chars,
    }


def _new_store(folder: Path) -> Store:
    """An empty store; what a run that was stopped here had written is made anew in a moment."""
    shutil.rmtree(folder / STORE, ignore_errors=True)
    return Store.create(folder / STORE)
