"""What search found in each round, and what the policy learned from it (the paper's tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence

from policy.statistics import ALL_LEVELS, paired_difference
from rounds import published
from rounds.charts.canvas import PAPER, POLICY, SEARCH
from rounds.charts.lines import Line, Point, losses, shares
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.facts import (
    POLICY_TICKS,
    ROUND_TICKS,
    RunFacts,
    change,
    coverage,
    ordered,
    percent,
    points,
    rate_point,
    titled,
    verdict,
    with_interval,
)


def coverage_section(facts: RunFacts) -> list[Block]:
    """Training problems with a verified solution, by level and round."""
    found = {index: coverage(facts.summary(f"round{index}/search")) for index in facts.rounds}
    levels = ordered(found[1])
    panels: list[str] = []
    rows: list[list[str]] = []
    strong: set[int] = set()
    for level in levels:
        here = [Point(index, found[index][level]) for index in facts.rounds]
        lines = [Line(label="here", colour=SEARCH, points=here)]
        paper = {index: one[level] for index, one in published.COVERAGE.items() if level in one}
        if paper:
            there = [Point(index, share) for index, share in paper.items()]
            lines.append(Line(label="paper", colour=PAPER, points=there, dashes="--", numbered=False))
        panels.append(shares(titled(level), lines, ticks=ROUND_TICKS))
    for index in facts.rounds:
        strong.add(len(rows))
        rows.append([f"round {index}, here", *(percent(found[index][level]) for level in levels)])
        theirs = published.COVERAGE[index]
        rows.append([f"round {index}, paper", *(percent(theirs.get(level)) for level in levels)])
    return [
        Heading("What search found"),
        Paragraph(
            f"{_coverage_sentence(facts, found[1], found[facts.last])} A problem counts as solved when one trajectory at least "
            "reached its reference answer: only solved problems give the next models something to learn from, so this is "
            "what has to rise from round to round."
        ),
        Figure(
            "coverage",
            panels,
            "Training problems solved by search. Solid: here. Dashed: the paper's table 2 (other problems, other models).",
        ),
        Table(["training problems with a verified solution", *levels], rows, frozenset(strong)),
    ]


def _coverage_sentence(facts: RunFacts, first: dict[str, float], last: dict[str, float]) -> str:
    if facts.last == 1:
        return f"In round 1 search solved {first[ALL_LEVELS]:.1%} of the training problems."
    by_level = ", ".join(f"{level} {change(first[level], last[level])}" for level in ordered(first)[:-1])
    return (
        f"From round 1 to round {facts.last} the share of training problems that search solved "
        f"{change(first[ALL_LEVELS], last[ALL_LEVELS])} ({by_level})."
    )


def policy_section(facts: RunFacts) -> list[Block]:
    """The policy alone on held-out problems, by round, and what it was trained on."""
    found = {index: facts.policy(index) for index in (0, *facts.rounds)}
    levels = list(found[0])
    panels = []
    for level in levels:
        here = [rate_point(index, by_level[level]) for index, by_level in found.items() if level in by_level]
        lines = [Line(label="here", colour=POLICY, points=here)]
        if level == ALL_LEVELS:
            there = [Point(index, share) for index, share in published.POLICY_MATH.items()]
            lines.append(Line(label="paper, MATH", colour=PAPER, points=there, dashes="--", numbered=False))
        panels.append(shares(titled(level), lines, ticks=POLICY_TICKS))
    rows = [
        [
            POLICY_TICKS[index],
            *(with_interval(by_level[level].rate, by_level[level].interval) for level in levels),
            percent(published.POLICY_MATH[index]),
        ]
        for index, by_level in found.items()
    ]
    base, last = (found[index][ALL_LEVELS] for index in (0, facts.last))
    return [
        Heading("What the policy learned"),
        Paragraph(
            f"From the base model to r{facts.last}, the share of {base.num_problems} held-out problems that the policy solves alone "
            f"{change(base.rate, last.rate)}; no round has seen these problems. It has one attempt per problem and always takes its likeliest next token "
            "(greedy pass@1): no search helps it here, so the gain is what training has put into the model."
        ),
        Figure(
            "policy",
            panels,
            "Greedy pass@1 on held-out problems; upright bars are 95% intervals. Dashed: the paper's table 3.",
        ),
        Table(["pass@1 (95% interval)", *levels, "paper, MATH"], rows, frozenset({len(rows) - 1})),
        *_gains(facts, levels),
        *_training(facts),
    ]


def _gains(facts: RunFacts, levels: Sequence[str]) -> list[Block]:
    """The last policy against the base, problem by problem."""
    before, after = facts.outcomes["base/evaluation"], facts.outcomes[f"round{facts.last}/evaluation"]
    rows = []
    for level in levels:
        shared = [name for name, (own, _) in before.items() if name in after and level in (own, ALL_LEVELS)]
        if not shared:
            continue
        gain = paired_difference(
            [float(before[name][1]) for name in shared],
            [float(after[name][1]) for name in shared],
            seed=facts.seed,
        )
        low, high = gain.interval.low, gain.interval.high
        rows.append([level, points(gain.difference, low, high), verdict(low, high)])
    name = f"r{facts.last} over base"
    return [Table([name, "points (95% interval, paired bootstrap)", f"r{facts.last} is"], rows)]


def _training(facts: RunFacts) -> list[Block]:
    rows = []
    for index in facts.rounds:
        made, trained = facts.summary(f"round{index}/sft_set"), facts.summary(f"round{index}/policy")
        rows.append([
            f"r{index}", f"{made['examples']:,}", f"{made['policy_tokens']:,}", f"{trained['steps']:,}",
            f"{trained['first_loss']:.3f} → {trained['final_loss']:.3f}",
        ])  # fmt: skip
    dropped = facts.summary(f"round{facts.last}/sft_set")["dropped"]
    reasons = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(dropped.items()))
    trained = facts.summary(f"round{facts.last}/policy")
    steps = [trained["logging_steps"] * (at + 1) for at in range(len(trained["losses"]))]
    return [
        Heading("What it was trained on", 3),
        Paragraph(
            "Each round trains the base model anew, on the verified solutions with the highest mean Q-value of each problem; "
            f"the loss is over the policy's own tokens only. Left out in round {facts.last}, by reason: {reasons or 'nothing'}."
        ),
        Table(["policy", "examples", "policy tokens", "steps", "loss"], rows),
        Figure(
            "policy-loss",
            [
                losses(
                    f"r{facts.last}", steps, trained["losses"], colour=POLICY, ylabel="nats per policy token"
                )
            ],
            f"Training loss of r{facts.last}.",
        ),
    ]
