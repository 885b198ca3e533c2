"""What the parts of the method are worth: other training sets (the paper's table 7), other value models (table 8).

Read from the summaries of `ablations/policies` and `ablations/scaling`, where a run has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policy.statistics import ALL_LEVELS
from rounds import published
from rounds.charts.canvas import INK, ORM, POLICY, PQM, SEARCH
from rounds.charts.intervals import Estimate, shares
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.facts import ABLATIONS, RunFacts, accuracy_text, by_level, percent, points, titled, verdict

TRAINING_SETS = {
    "random": ("random correct solutions", INK),
    "rejection": ("rejection sampling", INK),
    "top_mean_q": ("highest mean Q (ours)", POLICY),
}
VALUE_MODELS = {
    "orm": ("ORM, best of N", ORM),
    "pqm": ("PQM in search", PQM),
    "ppm": ("PPM in search (ours)", SEARCH),
}
"""The last of each is the method's own."""
COMPARISONS = {
    "ppm_over_pqm": "PPM over PQM",
    "pqm_over_orm": "PQM over ORM",
    "ppm_over_orm": "PPM over ORM",
}
ORDERING = {
    "yes": "holds here: every step of it is outside its interval",
    "no": "does not hold here: one pair is the other way round, outside its interval",
    "not told apart": "can be neither shown nor refuted with this many problems",
}
Points = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Variant to level to point."""


def ablations_section(facts: RunFacts) -> list[Block]:
    """Both tables, or one line that says how to make them."""
    heading = Heading("What the parts are worth")
    policies = facts.summary(f"{ABLATIONS}/policies").get("levels")
    value_models = facts.summary(f"{ABLATIONS}/scaling").get("value_models")
    if not policies and not value_models:
        command = facts.command.replace(f"round{facts.last}", f"ablations LAST={facts.last}", 1)
        return [
            heading,
            Paragraph(f"To replace one part of the method at a time and see what it was worth: `{command}`."),
        ]
    return [
        heading,
        Paragraph(
            f"Round {facts.last} with one part replaced: if the replacement does as well, the part is not what helps. Intervals are "
            "95%; diamonds are the paper's on MATH."
        ),
        *(_training_sets(by_level(policies)) if policies else []),
        *(_value_models(by_level(value_models)) if value_models else []),
    ]


def _training_sets(table: Mapping[str, Any]) -> list[Block]:
    levels = list(table)
    found: Points = {
        name: {level: table[level]["pass_rates"][name] for level in levels} for name in TRAINING_SETS
    }
    rows = [
        [
            f"ours over {TRAINING_SETS[name][0]}",
            *(_difference(table[level]["over"][name]) for level in levels),
        ]
        for name in table[ALL_LEVELS]["over"]
    ]
    return [
        Heading("What the policy is trained on", 3),
        Paragraph(
            "Greedy pass@1 of policies trained alike on other solutions: does search choose better ones to learn from? Rejection "
            "sampling learns from correct independent samples, drawn for as many tokens as the search took."
        ),
        Figure(
            "ablation-policy",
            _panels(found, TRAINING_SETS, published.TRAINING_SETS_MATH),
            "The policy alone on held-out problems, by training set (the paper's table 7).",
        ),
        _table("trained on", found, TRAINING_SETS, published.TRAINING_SETS_MATH),
        Table(["points (95% interval)", *levels], rows, wrapped=True),
    ]


def _value_models(table: Mapping[str, Any]) -> list[Block]:
    levels = list(table)
    found: Points = {
        "orm": {level: table[level]["ppm_over_orm"] for level in levels},
        **{name: {level: table[level]["searches"][name] for level in levels} for name in ("pqm", "ppm")},
    }
    rows = [
        [text, *(_difference(table[level][key]) for level in levels)] for key, text in COMPARISONS.items()
    ]
    tokens = {name: points_of[ALL_LEVELS]["tokens"] for name, points_of in found.items()}
    return [
        Heading("What guides and selects", 3),
        Paragraph(
            "The same policy with another value model. An ORM learns whether whole solutions are right, so it guides no search: it "
            f"selects among as many independent samples as the search's tokens pay for ({tokens['orm']:,.0f} per problem; PQM "
            f"{tokens['pqm']:,.0f}, PPM {tokens['ppm']:,.0f}). A PQM regresses the Q-values of steps; a PPM learns only which of two "
            f"steps is better. The paper's order, PPM above PQM above ORM, {ORDERING[table[ALL_LEVELS]['ordering']]}."
        ),
        Figure(
            "ablation-value",
            _panels(found, VALUE_MODELS, published.VALUE_MODELS_MATH),
            "Held-out problems by value model (the paper's table 8).",
        ),
        _table("value model", found, VALUE_MODELS, published.VALUE_MODELS_MATH),
        Table(["points (95% interval)", *levels], rows, wrapped=True),
    ]


def _panels(found: Points, names: Mapping[str, tuple[str, str]], paper: Mapping[str, float]) -> list[str]:
    """A panel per level; the paper's numbers stand in the one over all."""
    return [
        shares(
            titled(level),
            [
                Estimate(
                    label=label, colour=colour, value=found[name][level]["accuracy"], low=found[name][level]["low"],
                    high=found[name][level]["high"], paper=paper[name] if level == ALL_LEVELS else None,
                )
                for name, (label, colour) in names.items()
            ],
        )
        for level in found[next(iter(names))]
    ]  # fmt: skip


def _table(
    head: str, found: Points, names: Mapping[str, tuple[str, str]], paper: Mapping[str, float]
) -> Table:
    levels = list(found[next(iter(names))])
    rows = [
        [label, *(accuracy_text(found[name][level]) for level in levels), percent(paper[name])]
        for name, (label, _) in names.items()
    ]
    return Table([head, *levels, "paper, MATH"], rows, frozenset({len(rows) - 1}))


def _difference(one: Mapping[str, Any]) -> str:
    low, high = one["difference_low"], one["difference_high"]
    return f"{points(one['difference'], low, high)} {verdict(low, high)}"
