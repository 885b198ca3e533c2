"""What a run of four rounds leaves behind, made up in seconds: every summary has the form that the real stage gives it."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from policy.attempts import Attempt, by_problem
from policy.evaluate import Evaluation
from policy.statistics import ALL_LEVELS
from ppm.groups import DropReason, PairKind, PairReport
from rounds.artifact import SCHEMA_VERSION, Manifest
from rounds.evaluation import COMPARED, LEVELS, Baseline, curves, equal_tokens, plain_point
from rounds.health import LevelCoverage, SearchHealth
from rounds.report.facts import Outcomes, RunFacts
from rounds.training import pair_summary
from rstar.problems import Problem
from rstar.protocols import ExecutionVerdict
from rstar.selection import Method
from rstar.steps import StepKind
from rstar.tree import Node, TerminalReason, Tree

TRAINING = {"easy": 60, "medium": 120, "olympiad": 600}
HELD_OUT = {"easy": 200, "medium": 200, "olympiad": 200}
SEARCHED = {"easy": 30, "medium": 30, "olympiad": 60}
SOLVED = {"easy": (0.95, 1, 1, 1), "medium": (0.7, 0.8, 0.9, 0.95), "olympiad": (0.12, 0.4, 0.65, 0.8)}
ALONE = {
    "easy": (0.6, 0.8, 0.9, 0.95, 0.96),
    "medium": (0.3, 0.5, 0.6, 0.75, 0.8),
    "olympiad": (0.05, 0.1, 0.2, 0.3, 0.35),
}
NUM_TREES, NUM_SAMPLES = 4, 16


def run_facts(last: int = 4, *, evaluated: bool = True, ablated: bool = True, seed: int = 0) -> RunFacts:
    """The facts after round `last`; `evaluated` with the full system (and scaling after round 4), `ablated` with ablations."""
    chance = random.Random(seed)
    manifests = dict(
        _stages(last, evaluated=evaluated, ablated=ablated and evaluated and last == 4, chance=chance)
    )
    outcomes = {
        name: _outcomes(index, chance)
        for index, name in enumerate(
            ["base/evaluation", *(f"round{i}/evaluation" for i in range(1, last + 1))]
        )
    }
    if ablated:
        outcomes |= {f"ablations/{name}/evaluation": _outcomes(2, chance) for name in ("random", "rejection")}
    return RunFacts(
        name="made-up",
        seed=seed,
        command=f"make round{last}",
        machine="no machine",
        manifests=manifests,
        outcomes={name: found for name, found in outcomes.items() if name in manifests},
        searched=frozenset(f"{level}-{at}" for level, n in SEARCHED.items() for at in range(n)) if evaluated else frozenset(),
        tree=sample_tree(),
        unsolved=[Problem(id="u1", question="How many of the 35 numbers n from 1 to 35 have a digit sum that divides n?", answer="15", level="olympiad")],
    )  # fmt: skip


def manifest(
    name: str, summary: Mapping[str, Any], *, settings: Mapping[str, Any] | None = None, **inputs: str
) -> Manifest:
    """A finished stage, its summary as it comes back from a file."""
    return Manifest(
        schema_version=SCHEMA_VERSION, stage=name, fingerprint=f"{abs(hash(name)):016x}"[:16], settings=dict(settings or {}),
        seed=random.Random(name).getrandbits(62), inputs=inputs,
        outputs={"model.safetensors": f"{len(name):064x}", "store/part.parquet": f"{len(name) + 1:064x}"},
        summary=json.loads(json.dumps(summary, sort_keys=True)), seconds=10.0 + len(name), versions={"python": "3.11.0", "torch": "2.13.0"},
    )  # fmt: skip


def _stages(
    last: int, *, evaluated: bool, ablated: bool, chance: random.Random
) -> Iterator[tuple[str, Manifest]]:
    def made(name: str, summary: Mapping[str, Any], **more: Any) -> tuple[str, Manifest]:
        return name, manifest(name, summary, **more)

    yield made("problems", {"train": TRAINING, "evaluation": HELD_OUT, "contaminated": 0})
    yield made("base/evaluation", {"problems": 600, "solved": 200, "tokens": 30_000, "joules": None})
    for index in range(1, last + 1):
        here = f"round{index}"
        yield made(f"{here}/search", _search(index), problems="p" * 16, model="m" * 16)
        yield made(
            f"{here}/sft_set",
            {
                "examples": 300 * index,
                "policy_tokens": 20_000 * index,
                "dropped": {"surplus": 12, "unsolved": 80},
            },
        )
        losses = [0.4 * math.exp(-at / 20) + 0.02 * chance.random() for at in range(40)]
        yield made(
            f"{here}/policy",
            {"examples": 300 * index, "steps": 40, "tokens": 90_000, "first_loss": losses[0], "final_loss": losses[-1],
             "losses": losses, "logging_steps": 1, "joules": 120.0}, base="b" * 16, sft_set="s" * 16,
        )  # fmt: skip
        yield made(f"{here}/pairs", _pairs(index), settings={"pairs": {"min_q_margin": 0.5}})
        yield made(f"{here}/ppm", _ppm(index, chance), pairs="q" * 16, policy="r" * 16)
        yield made(f"{here}/evaluation", {"problems": 600, "solved": 300, "tokens": 31_000, "joules": None})
        if evaluated:
            for stage in ("system", "ppm_evaluation")[: 1 if index == 1 else 2]:
                skill = index if stage == "system" else 1 + (index - 1) / 3
                yield made(f"{here}/{stage}", _system(_searches(skill, 1, chance)))
    if evaluated and last == 4:
        yield made("scaling", _scaling(chance, "ppm"))
    if ablated:
        for name in ("random", "rejection"):
            yield made(
                f"ablations/{name}/evaluation",
                {"problems": 600, "solved": 250, "tokens": 31_000, "joules": None},
            )
        yield made("ablations/policies", _policies())
        yield made(
            "ablations/scaling",
            _scaling(chance, "ppm", "orm", "pqm") | {"value_models": _value_models(chance)},
        )


def _policies() -> dict[str, Any]:
    """As `rounds.ablations.make_policies`."""
    rates = {"random": 0.5, "rejection": 0.55, "top_mean_q": 0.7}
    level = {
        "pass_rates": {name: {"accuracy": share, "low": share - 0.05, "high": share + 0.05} for name, share in rates.items()},
        "over": {
            name: {"difference": 0.7 - rates[name], "difference_low": low, "difference_high": 0.3, "finding": finding}
            for name, low, finding in (("random", 0.1, "yes"), ("rejection", -0.01, "not told apart"))
        },
    }  # fmt: skip
    return {"compared": "top_mean_q", "levels": dict.fromkeys((*TRAINING, ALL_LEVELS), level)}


def _value_models(chance: random.Random) -> dict[str, Any]:
    """As `rounds.ablations.value_models`."""
    ppm, pqm, orm = (_system(_searches(skill, 1, chance))["accuracy"] for skill in (4, 3, 1))

    def over(one: Any, other: Any) -> dict[str, Any]:
        difference = one["accuracy"] - other["accuracy"]
        bounds = {"difference_low": difference - 0.08, "difference_high": difference + 0.08}
        return {**other, "exhausted": False, "difference": difference, **bounds, "finding": "not told apart"}

    points = {level: [one[level][Method.BEST] for one in (ppm, pqm, orm)] for level in ppm}
    return {
        level: {
            "searches": {"ppm": best, "pqm": second}, "ppm_over_pqm": over(best, second),
            "ppm_over_orm": over(best, third), "pqm_over_orm": over(second, third), "ordering": "not told apart",
        }
        for level, (best, second, third) in points.items()
    }  # fmt: skip


def _search(index: int) -> dict[str, Any]:
    return SearchHealth(
        coverage={level: LevelCoverage(n, round(n * SOLVED[level][index - 1])) for level, n in TRAINING.items()},
        trees=780, exhausted=300, rollouts=780 * 8 * index, nodes=30_000 * index, tokens=400_000 * index,
        executions=28_000 * index, expansions=9_000 * index, merged=20_000 * index, solved_later=7 * (index == 4),
        verdicts=Counter({ExecutionVerdict.OK: 26_000, ExecutionVerdict.ERROR: 5_000 // index, ExecutionVerdict.TIMEOUT: 120}),
        terminals=Counter({
            TerminalReason.ANSWERED: 5_000 * index, TerminalReason.CODE_ERRORS: 700, TerminalReason.UNPARSABLE: 150,
            TerminalReason.MAX_DEPTH: 40,
        }),
        depths=Counter({3: 900, 4: 2_000, 5: 1_400, 6: 500, 7: 160, 9: 40}), solved_at=Counter({1: 300, 2: 90, 5: 20}),
        branching=Counter({0: 100, 1: 3_000, 2: 2_800, 3: 1_500, 4: 900, 5: 700}),
        answers_right=1_200 * index * index, answers_wrong=5_000 * index - 1_200 * index * index,
    ).summary() | {"mastered": 0, "joules": 900.0 * index}  # fmt: skip


def _pairs(index: int) -> dict[str, Any]:
    report = PairReport(
        num_trees=780, num_nodes=30_000, num_groups=Counter({PairKind.STEP: 500, PairKind.FINAL: 300}),
        num_pairs=Counter({PairKind.STEP: 1_370 * index, PairKind.FINAL: 700}),
        depths=Counter({1: 900 * index, 2: 300 * index, 3: 120 * index, 4: 50 * index}),
        margins=Counter({-0.25: 3, 0.0: 300, 0.25: 220, 0.5: 410, 0.75: 300, 1.0: 290, 1.25: 180, 1.5: 120, 1.75: 260, 2.0: 700}),
        dropped=Counter({DropReason.MARGIN: 523, DropReason.ALL_WRONG: 300 // index, DropReason.ALL_CORRECT: 60 * index, DropReason.ONE_CHILD: 210, DropReason.EDIT_DISTANCE: 14}),
    )  # fmt: skip
    return {"problems": 220, **pair_summary(report)}


def _ppm(index: int, chance: random.Random) -> dict[str, Any]:
    accuracy = 0.6 + 0.08 * index
    return {
        "objective": "ppm", "groups": 700, "pairs": 1_800, "held_out_pairs": 210, "steps": 30, "best_step": 25,
        "accuracy": accuracy, "accuracy_by_step": {"25": accuracy},
        "accuracy_by_kind": {"step": accuracy + 0.02, "final": accuracy - 0.03},
        "accuracy_by_depth": {"1": accuracy, "2": accuracy + 0.04, "3": accuracy - 0.1, "4": 1.0},
        "pairs_by_depth": {"1": 120, "2": 60, "3": 30, "4": 2},
        "losses": [0.69 * math.exp(-at / 30) + 0.02 * chance.random() for at in range(30)], "logging_steps": 1, "joules": 60.0,
    }  # fmt: skip


def _outcomes(index: int, chance: random.Random) -> Outcomes:
    return {
        f"{level}-{at}": (level, chance.random() < ALONE[level][index])
        for level, n in HELD_OUT.items()
        for at in range(n)
    }


def _attempts(
    skill: float, num_trees: int, num_answers: int, tokens: int, chance: random.Random
) -> Evaluation:
    """Trees of `num_answers` answers, right more often with more `skill`, whose scores know a little of what is right."""
    attempts = []
    for level, n in SEARCHED.items():
        for at in range(n):
            ease = chance.betavariate(1 + 2 * ALONE[level][4], 1.6) * (0.5 + skill / 8)
            for tree in range(num_trees):
                spent = round(tokens * chance.uniform(0.6, 1.4))
                for node in range(1, 1 + num_answers):
                    right = chance.random() < ease
                    kind = 0 if right else chance.randint(1, 6)
                    score = math.tanh(chance.gauss(0.7 if right else -0.5, 0.6))
                    attempts.append(
                        Attempt(
                            problem_id=f"{level}-{at}", level=level, tree_index=tree, tokens=spent, node_id=node, answer=str(kind),
                            answer_class=kind, multiplicity=1, score=score, mean_q=score, verified=right,
                        )
                    )  # fmt: skip
    return Evaluation(by_problem(attempts), seed=0)


def _searches(skill: float, num_trees: int, chance: random.Random) -> Evaluation:
    return _attempts(skill, num_trees, 4, 400, chance)


def _system(searches: Evaluation) -> dict[str, Any]:
    levels = searches.levels(LEVELS)
    return {
        "problems": {level: len(ids) for level, ids in levels.items()}, "trees_per_problem": searches.num_trees,
        "tokens": 48_000, "contamination": {"evaluated": 120, "trained_on": 780, "both": 0}, "joules": None,
        "accuracy": {
            level: {str(method): plain_point(searches.point(ids, method, searches.num_trees)) for method in Method}
            for level, ids in levels.items()
        },
    }  # fmt: skip


def _scaling(chance: random.Random, *value_models: str) -> dict[str, Any]:
    searches = _searches(4, NUM_TREES, chance)
    samples, greedy = _attempts(3, NUM_SAMPLES, 1, 100, chance), _attempts(3.3, 1, 1, 90, chance)
    baselines = {
        str(Method.PASS): Baseline(samples, Method.PASS),
        str(Method.MAJORITY): Baseline(samples, Method.MAJORITY),
    }
    baselines |= {
        f"{method}:{name}": Baseline(samples, method) for name in value_models for method in COMPARED[:3]
    }
    baselines["greedy"] = Baseline(greedy, Method.PASS)
    return {
        **{key: value for key, value in _system(searches).items() if key != "accuracy"},
        "curves": curves(searches, baselines),
        "equal_tokens": equal_tokens(searches, baselines, seed=0),
    }


def sample_tree() -> Tree:
    """Right and wrong answers, a failed step and a dead end."""
    tree = Tree(
        problem_id="olympiad-7",
        question="Find the number of integers n from 1 to 35 whose digit sum divides n.",
    )

    def add(parent: int, value: float, **more: Any) -> int:
        node = Node(
            parent=parent,
            depth=tree.nodes[parent].depth + 1,
            visit_count=2,
            value_sum=2 * value,
            text="# step\nx = 1\n<end_of_step>",
            kind=StepKind.CODE,
            **more,
        )
        tree.nodes.append(node)
        tree.nodes[parent].children.append(len(tree.nodes) - 1)
        return len(tree.nodes) - 1

    def answer(parent: int, *, right: bool) -> None:
        at = add(
            parent, 1.0 if right else -1.0, terminal=TerminalReason.ANSWERED, answer="15", verified=right
        )
        tree.nodes[at] = dataclasses.replace(tree.nodes[at], kind=StepKind.ANSWER)

    first, second = add(0, 0.4), add(0, -0.8)
    add(0, 0.0, execution=ExecutionVerdict.ERROR)
    left, right = add(first, 0.9), add(first, 0.0)
    answer(left, right=True)
    answer(add(right, 0.5), right=True)
    answer(right, right=False)
    answer(second, right=False)
    add(second, -1.0, terminal=TerminalReason.CODE_ERRORS)
    return tree
