"""What the parts of the method are worth: other training sets (the paper's table 7), other value models (table 8).

Read from the stages below `ablations`, where there are any: `ablations/<training set>/evaluation`, greedy, and
`ablations/<value model>/system`, which searches with that model. An ORM judges whole solutions, so it guides no search: it
selects among the samples of `scaling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy.statistics import ALL_LEVELS
from rounds import published
from rounds.charts.canvas import INK, POLICY, SEARCH
from rounds.charts.intervals import Estimate, shares
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.evaluation import SAMPLES, fair_budget
from rounds.report.facts import SELECTION, RunFacts, accuracy_text, percent, rates, titled, with_interval

FOLDER = "ablations/"
TRAINING_SETS = {
    "random": "random correct solutions",
    "rejection": "rejection sampling",
    "verified": "highest mean Q (ours)",
}
VALUE_MODELS = {"orm": "ORM", "pqm": "PQM", "ppm": "PPM (ours)"}
OURS = ("verified", "ppm")


def ablations_section(facts: RunFacts) -> list[Block]:
    """Both tables, or one line that says how to make them."""
    heading = Heading("What the parts are worth")
    if not any(name.startswith(FOLDER) for name in facts.manifests):
        command = facts.command.replace(f"round{facts.last}", "ablations", 1)
        return [heading, Paragraph(f"Replace one part of the method at a time and see: `{command}`.")]
    return [
        heading,
        Paragraph(
            "The same run with one part replaced: if a replacement does as well, the part it replaces is not what helps. "
            "Intervals are 95%; diamonds are the paper's on MATH."
        ),
        *_training_sets(facts),
        *_value_models(facts),
    ]


def _training_sets(facts: RunFacts) -> list[Block]:
    found = {
        _variant(name): rates(facts.outcomes[name].values())
        for name in facts.outcomes
        if name.startswith(FOLDER)
    }
    if not found:
        return []
    found["verified"] = facts.policy(facts.last)
    levels = list(found["verified"])
    ordered = sorted(found, key=_place(TRAINING_SETS))
    panels = [
        shares(
            titled(level),
            [
                Estimate(
                    label=TRAINING_SETS.get(name, name), colour=POLICY if name in OURS else INK,
                    value=found[name][level].rate, low=found[name][level].interval.low, high=found[name][level].interval.high,
                    paper=published.TRAINING_SETS_MATH.get(name) if level == ALL_LEVELS else None,
                )
                for name in ordered if level in found[name]
            ],
        )
        for level in levels
    ]  # fmt: skip
    rows = [
        [
            TRAINING_SETS.get(name, name),
            *(with_interval(found[name][level].rate, found[name][level].interval) for level in levels),
            percent(published.TRAINING_SETS_MATH.get(name)),
        ]
        for name in ordered
    ]
    return [
        Heading("What the policy is trained on", 3),
        Paragraph(
            "Greedy pass@1 of policies trained alike, on other solutions: does search choose better ones to learn from?"
        ),
        Figure(
            "ablation-policy",
            panels,
            "Policy alone on held-out problems, by training set (the paper's table 7).",
        ),
        Table(["trained on", *levels, "paper, MATH"], rows, _ours(ordered)),
    ]


def _value_models(facts: RunFacts) -> list[Block]:
    found = _systems(facts)
    if len(found) < 2:
        return []
    ordered = sorted(found, key=_place(VALUE_MODELS))
    levels = list(found["ppm"]) if "ppm" in found else list(found[ordered[0]])
    panels = [
        shares(
            titled(level),
            [
                Estimate(
                    label=VALUE_MODELS.get(name, name), colour=SEARCH if name in OURS else _colour(name),
                    value=point["accuracy"], low=point["low"], high=point["high"],
                    paper=published.VALUE_MODELS_MATH.get(name) if level == ALL_LEVELS else None,
                )
                for name in ordered if (point := found[name].get(level)) is not None
            ],
        )
        for level in levels
    ]  # fmt: skip
    rows = [
        [
            VALUE_MODELS.get(name, name), *(accuracy_text(found[name].get(level)) for level in levels),
            f"{found[name][ALL_LEVELS]['tokens']:,.0f}", percent(published.VALUE_MODELS_MATH.get(name)),
        ]
        for name in ordered
    ]  # fmt: skip
    return [
        Heading("What guides and selects", 3),
        Paragraph(
            "The same policy with another value model in the preference model's place. An ORM learns whether whole solutions are "
            "right and selects among as many independent samples as the search's tokens pay for; a PQM regresses the Q-values of "
            "steps; a PPM learns only which of two steps is better."
        ),
        Figure(
            "ablation-value",
            panels,
            "Full system on held-out problems, by value model (the paper's table 8).",
        ),
        Table(["value model", *levels, "tokens per problem", "paper, MATH"], rows, _ours(ordered)),
    ]


def _systems(facts: RunFacts) -> dict[str, Mapping[str, Any]]:
    """Value model to level to point: of a search with it, or else of the samples that it selects among."""
    found: dict[str, Mapping[str, Any]] = {}
    num_trees = facts.summary(f"round{facts.last}/system").get("trees_per_problem")
    if table := facts.summary("scaling").get("equal_tokens"):
        baselines = {
            level: _at(by_method[SELECTION], num_trees)["baselines"] for level, by_method in table.items()
        }
        for name in (name for name in VALUE_MODELS if name not in OURS):
            if all(f"best:{name}" in row for row in baselines.values()):
                found[name] = {level: row[f"best:{name}"] for level, row in baselines.items()}
    stages = {
        _variant(stage): stage
        for stage in facts.manifests
        if stage.startswith(FOLDER) and stage.endswith("/system")
    }
    for name, stage in stages.items():
        found[name] = {level: one[SELECTION] for level, one in facts.summary(stage)["accuracy"].items()}
    if ours := facts.system(facts.last):
        found["ppm"] = {level: one[SELECTION] for level, one in ours.items()}
    return found


def _at(rows: Sequence[Mapping[str, Any]], num_trees: int | None) -> Mapping[str, Any]:
    """The point of `scaling` that spends what the full system does: that with as many trees."""
    return next((row for row in rows if row["num_trees"] == num_trees), fair_budget(rows))


def _variant(stage: str) -> str:
    return stage.split("/")[1]


def _place(known: Mapping[str, str]) -> Any:
    """A sorting key: unknown variants by name, then the known ones in their order."""
    names = list(known)
    return lambda name: (names.index(name) if name in known else -1, name)


def _colour(name: str) -> str:
    return SAMPLES[f"best:{name}"][1] if f"best:{name}" in SAMPLES else INK


def _ours(ordered: list[str]) -> frozenset[int]:
    return frozenset(at for at, name in enumerate(ordered) if name in OURS)
