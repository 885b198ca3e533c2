"""The preference model: the pairs it learns from, how well it orders others, and what it is worth as a guide (table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policy.statistics import ALL_LEVELS
from ppm.groups import MARGIN_BIN, PairKind
from rounds import published
from rounds.charts.bars import columns
from rounds.charts.canvas import CEILING, INK, PAPER, PPM
from rounds.charts.lines import Line, Point, losses, shares
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.facts import (
    ROUND_TICKS,
    SELECTION,
    RunFacts,
    accuracy_text,
    change,
    percent,
    plain_point,
    titled,
)
from rounds.training import earlier

CHANCE = 0.5


def preference_section(facts: RunFacts) -> list[Block]:
    """Pairs, held-out accuracy, and the preference models of all rounds with the policy of round 1."""
    made, trained = (facts.summary(f"round{facts.last}/{stage}") for stage in ("pairs", "ppm"))
    num_pairs = sum(made["pairs"].values())
    learned_from = facts.manifests[f"round{facts.last}/ppm"].inputs
    others = (
        " and on those of earlier rounds"
        if any(earlier("pairs", i) in learned_from for i in facts.rounds)
        else ""
    )
    return [
        Heading("The preference model"),
        Paragraph(
            f"Wherever a tree holds right and wrong answers, search has learned which of two next steps is better. Round "
            f"{facts.last} made {num_pairs:,} such preference pairs from {made['problems']:,} problems, and the process "
            f"preference model (PPM) trained on them{others} puts {trained['accuracy']:.1%} of {trained['held_out_pairs']:,} pairs of "
            "other problems in the right order. Half of them would be chance."
        ),
        *_pairs(facts, made),
        *_accuracy(facts, trained),
        *_fixed_policy(facts),
    ]


def _pairs(facts: RunFacts, last: Mapping[str, Any]) -> list[Block]:
    summaries = {index: facts.summary(f"round{index}/pairs") for index in facts.rounds}
    rows = [
        [
            f"round {index}", f"{one['trees']:,}", f"{one['problems']:,}", f"{one['pairs'].get(PairKind.STEP, 0):,}",
            f"{one['pairs'].get(PairKind.FINAL, 0):,}", percent(one["common_prefix_share"]),
        ]
        for index, one in summaries.items()
    ]  # fmt: skip
    depths = sorted({int(depth) for one in summaries.values() for depth in one["depths"]})
    by_depth = [
        [
            f"round {index}", *(f"{one['depths'].get(str(depth), 0):,}" for depth in depths),
            f"{one['pairs'].get(PairKind.FINAL, 0):,}",
        ]
        for index, one in summaries.items()
    ]  # fmt: skip
    reasons = sorted({reason for one in summaries.values() for reason in one["dropped"]})
    left_out = [
        [f"round {index}", *(f"{one['dropped'].get(reason, 0):,}" for reason in reasons)]
        for index, one in summaries.items()
    ]
    return [
        Heading("Pairs", 3),
        Paragraph(
            "A step pair is two next steps after the same beginning; a final pair is two whole solutions of one problem, a "
            "right and a wrong one, which share no more than the question."
        ),
        Table(
            ["", "trees", "problems with pairs", "step pairs", "final pairs", "share with a common prefix"],
            rows,
        ),
        Figure(
            "pairs",
            [_depths(last), _margins(facts, last)],
            f"Pairs of round {facts.last}. Left: by the depth of their steps (1 follows the question). Right: how far apart "
            "the Q-values of two steps are, before any pair was left out; grey ones are closer than the threshold.",
        ),
        Table(["step pairs by depth", *map(str, depths), "final"], by_depth),
        Heading("What gave no pair", 3),
        Paragraph(
            "Trees whose answers are all right, all wrong or none, prefixes where a single step leads to all answers, and "
            "pairs too close in Q-value, too alike or too long."
        ),
        *(
            [Table(["left out", *(reason.replace("_", " ") for reason in reasons)], left_out)]
            if reasons
            else []
        ),
    ]


def _depths(summary: Mapping[str, Any]) -> str:
    bars = {depth: summary["depths"][depth] for depth in sorted(summary["depths"], key=int)}
    final = summary["pairs"].get(PairKind.FINAL, 0)
    return columns(
        "pairs by depth",
        {**bars, "final": final},
        colours=[*[PPM] * len(bars), INK],
        xlabel="depth of the steps; whole solutions",
    )


def _margins(facts: RunFacts, summary: Mapping[str, Any]) -> str:
    threshold = facts.manifests[f"round{facts.last}/pairs"].settings["pairs"]["min_q_margin"]
    found = {float(edge): number for edge, number in summary["margins"].items()}
    bars: dict[str, int] = {}
    colours = []
    if found:
        for at in range(round(min(found) / MARGIN_BIN), round(max(found) / MARGIN_BIN) + 1):
            edge = MARGIN_BIN * at
            bars[f"{edge:g}"] = found.get(edge, 0)
            colours.append(PPM if edge >= threshold else CEILING)
    return columns(
        "pairs by margin", bars, colours=colours, xlabel=f"Q(better) - Q(worse), bins of {MARGIN_BIN}"
    )


def _accuracy(facts: RunFacts, last: Mapping[str, Any]) -> list[Block]:
    found = {index: facts.summary(f"round{index}/ppm") for index in facts.rounds}
    here = [Point(index, one["accuracy"]) for index, one in found.items()]
    chance = Line(
        label="chance",
        colour=CEILING,
        dashes=":",
        numbered=False,
        points=[Point(1, CHANCE), Point(4, CHANCE)],
    )
    panels = [shares("by round", [Line(label="here", colour=PPM, points=here), chance], ticks=ROUND_TICKS)]
    by_depth = last["accuracy_by_depth"]
    if by_depth:
        points = [Point(int(depth), by_depth[depth]) for depth in sorted(by_depth, key=int)]
        ends = (points[0].x, points[-1].x)
        chance = Line(
            label="chance",
            colour=CEILING,
            dashes=":",
            numbered=False,
            points=[Point(x, CHANCE) for x in ends],
        )
        panels.append(
            shares(
                f"step pairs by depth, round {facts.last}",
                [Line(label=f"PPM r{facts.last}", colour=PPM, points=points), chance],
                ticks={int(point.x): f"{point.x:.0f}" for point in points},
            )
        )
    depths = sorted({int(depth) for one in found.values() for depth in one["accuracy_by_depth"]})
    rows = [
        [
            f"PPM r{index}", f"{one['pairs']:,}", f"{one['held_out_pairs']:,}", percent(one["accuracy"]),
            *(percent(one["accuracy_by_kind"].get(kind)) for kind in PairKind),
            *(_with_count(one, str(depth)) for depth in depths),
        ]
        for index, one in found.items()
    ]  # fmt: skip
    steps = [last["logging_steps"] * (at + 1) for at in range(len(last["losses"]))]
    return [
        Heading("How well it orders pairs it has not seen", 3),
        Paragraph(
            "Pairs of problems held out of its training, in the right order if the better continuation scores higher; in "
            "brackets how many step pairs of that depth the round itself held out."
        ),
        Figure("pair-accuracy", panels, "Held-out pairs in the right order."),
        Table(
            ["", "trained on", "held out", "in order", *(f"{kind} pairs" for kind in PairKind),
             *(f"depth {depth}" for depth in depths)],
            rows, frozenset({len(rows) - 1}),
        ),
        Figure(
            "ppm-loss",
            [losses(f"PPM r{facts.last}", steps, last["losses"], colour=PPM, ylabel="training loss")],
            f"Training loss of the preference model of round {facts.last}; ln 2 = 0.693 is where it knows nothing. Kept is the "
            f"checkpoint at step {last['best_step']:,} of {last['steps']:,}, which orders most held-out pairs.",
        ),
    ]  # fmt: skip


def _with_count(trained: Mapping[str, Any], depth: str) -> str:
    share = trained["accuracy_by_depth"].get(depth)
    return percent(share) if share is None else f"{percent(share)} ({trained['pairs_by_depth'][depth]})"


def _fixed_policy(facts: RunFacts) -> list[Block]:
    """Each round's preference model with the policy of round 1: beside the paper's table 4."""
    found = {index: one for index in facts.rounds if (one := facts.system(index, fixed_policy=True))}
    if not found:
        return []
    levels = list(found[min(found)])
    panels = []
    for level in levels:
        here = [plain_point(index, one[level][SELECTION]) for index, one in found.items()]
        lines = [Line(label="here", colour=PPM, points=here)]
        if level == ALL_LEVELS:
            there = [Point(index, share) for index, share in published.PPM_MATH.items()]
            lines.append(Line(label="paper, MATH", colour=PAPER, points=there, dashes="--", numbered=False))
        panels.append(shares(titled(level), lines, ticks=ROUND_TICKS))
    rows = [
        [f"r1 + PPM r{index}", *(accuracy_text(one[level][SELECTION]) for level in levels), percent(published.PPM_MATH[index])]
        for index, one in found.items()
    ]  # fmt: skip
    first, last = (found[index][ALL_LEVELS][SELECTION]["accuracy"] for index in (min(found), max(found)))
    comparison = (
        f" From PPM r{min(found)} to PPM r{max(found)} it {change(first, last)}." if len(found) > 1 else ""
    )
    return [
        Heading("What each round's preference model is worth to one and the same policy", 3),
        Paragraph(
            f"Search on held-out problems, always with the policy of round 1, guided by the preference model of each round: "
            f"what differs is the guide alone.{comparison}"
        ),
        Figure(
            "ppm-by-round",
            panels,
            "Accuracy of policy r1 with each round's PPM on held-out problems; upright bars are 95% intervals. Dashed: the "
            "paper's table 4.",
        ),
        Table(["accuracy (95% interval)", *levels, "paper, MATH"], rows, frozenset({len(rows) - 1})),
    ]
