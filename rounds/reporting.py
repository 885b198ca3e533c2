"""The stage `report`: the page of a run so far, from the manifests and stores of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policy.attempts import ATTEMPTS, read_attempts
from rounds.artifact import STORE, Manifest, read_manifest
from rounds.curriculum import Level
from rounds.machine import describe_machine
from rounds.page import write
from rounds.pools import TRAIN
from rounds.recipe import RoundRecipe
from rounds.report import report
from rounds.report.facts import RunFacts
from rounds.report.samples import NODES_SHOWN, choose_tree, choose_unsolved
from rounds.searching import outcomes
from rstar.problems import Problem, read_problems
from rstar.store import Outcome, Store
from rstar.tree import Tree

TREES_READ = 16
"""Of the solved trees, those of about the right size, one of which is shown."""


def make_report(
    recipes: Sequence[RoundRecipe], command: str, folder: Path, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """The page of the rounds of `recipes`; `inputs` are all other stages, named as they are."""
    last = recipes[-1]
    problems = read_problems(inputs["problems"] / TRAIN).problems
    store = Store(inputs[f"round{last.round_index}/search"] / STORE)
    solved = {r.problem_id for r in store.records(last.round_index) if r.outcome is Outcome.SOLVED}
    system = inputs.get(f"round{last.round_index}/system")
    facts = RunFacts(
        name=last.name,
        seed=last.seed,
        command=command,
        machine=describe_machine(),
        manifests={name: _manifest(path) for name, path in inputs.items()},
        outcomes={name: outcomes(path / STORE) for name, path in inputs.items() if name.endswith("/evaluation")},
        searched=frozenset(one.problem_id for one in read_attempts(system / ATTEMPTS)) if system else frozenset(),
        tree=choose_tree(_candidates(store, last.round_index, problems)),
        unsolved=choose_unsolved(problems, solved, last.seed),
    )  # fmt: skip
    write(report(facts), folder, "report")
    return {}


def _candidates(store: Store, round_index: int, problems: Sequence[Problem]) -> list[Tree]:
    """Solved trees that might be shown: of the hardest problems, and of a size that can be read."""
    hardest = {p.id for p in problems if p.level == Level.OLYMPIAD} or {p.id for p in problems}
    solved = [
        r for r in store.records(round_index) if r.outcome is Outcome.SOLVED and r.problem_id in hardest
    ]
    nearest = sorted(solved, key=lambda r: (abs(r.num_nodes - NODES_SHOWN), r.problem_id, r.tree_index))
    return [store.tree(r.problem_id, r.tree_index, round=r.round) for r in nearest[:TREES_READ]]


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is complete"
    return manifest
