"""The stage `report`: the page of a run so far, from the manifests and stores of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rounds.artifact import STORE, Manifest, read_manifest
from rounds.curriculum import Level
from rounds.machine import describe_machine
from rounds.page import write
from rounds.pools import TRAIN
from rounds.recipe import RoundRecipe
from rounds.report import RoundFacts, RunFacts, choose_tree, choose_unsolved, report
from rounds.searching import outcomes
from rstar.problems import read_problems
from rstar.store import Outcome, Store

TREES_READ = 8
"""Of the solved trees, the largest of which one is chosen to be shown."""


def make_report(
    recipes: Sequence[RoundRecipe], command: str, folder: Path, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """The page of the rounds of `recipes`; `inputs` are named by their stages."""
    last = recipes[-1]
    problems = read_problems(inputs["problems"] / TRAIN).problems
    hardest = {p.id for p in problems if p.level == Level.OLYMPIAD} or {p.id for p in problems}
    store = Store(inputs[f"round{last.round_index}/search"] / STORE)
    records = [r for r in store.records(last.round_index) if r.outcome is Outcome.SOLVED]
    largest = sorted((r for r in records if r.problem_id in hardest), key=lambda r: -r.num_nodes)[:TREES_READ]
    trees = [store.tree(r.problem_id, r.tree_index, round=r.round) for r in largest]
    solved = {r.problem_id for r in records}
    facts = RunFacts(
        name=last.name,
        seed=last.seed,
        problems=_manifest(inputs["problems"]),
        base_evaluation=_manifest(inputs["base/evaluation"]),
        base_outcomes=outcomes(inputs["base/evaluation"] / STORE),
        rounds=[
            RoundFacts(
                round_index=recipe.round_index,
                search=_manifest(inputs[f"round{recipe.round_index}/search"]),
                sft_set=_manifest(inputs[f"round{recipe.round_index}/sft_set"]),
                policy=_manifest(inputs[f"round{recipe.round_index}/policy"]),
                evaluation=_manifest(inputs[f"round{recipe.round_index}/evaluation"]),
                outcomes=outcomes(inputs[f"round{recipe.round_index}/evaluation"] / STORE),
                solved_tree=choose_tree(trees) if recipe is last else None,
                unsolved=choose_unsolved(problems, solved, last.seed) if recipe is last else [],
            )
            for recipe in recipes
        ],
        command=command,
        machine=describe_machine(),
    )
    write(report(facts), folder, "report")
    return {}


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is complete"
    return manifest
