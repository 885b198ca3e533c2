"""The full system, policy and preference model in a search: by round (table 6), and against sampling (figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy.statistics import ALL_LEVELS
from rounds import published
from rounds.charts.canvas import CEILING, INK, ORM, PAPER, POLICY, PPM, PQM, SEARCH, VOTE
from rounds.charts.intervals import Estimate, differences
from rounds.charts.lines import Line, Point, by_tokens, shares
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.facts import (
    ROUND_TICKS,
    SELECTION,
    RunFacts,
    accuracy_text,
    by_level,
    listed,
    percent,
    plain_point,
    points,
    rate_point,
    titled,
    verdict,
    with_interval,
)
from rstar.selection import Method

METHODS = {
    Method.BEST: "the best-scored trajectory's",
    Method.MAJORITY: "the most frequent",
    Method.WEIGHTED_VOTE: "the most frequent, weighted by score",
    Method.TOP_VOTE: "the most frequent of the 4 best-scored",
    Method.PASS: "any is right (no selection can do better)",
}
"""Ways to select an answer that are shown, and which answer they take."""
SAMPLES = {
    "majority": ("majority vote", VOTE),
    "best:orm": ("best of N by ORM", ORM),
    "best:pqm": ("best of N by PQM", PQM),
    "best:ppm": ("best of N by PPM", PPM),
    "weighted_vote:ppm": ("vote weighted by PPM", INK),
}
"""Ways to use independent samples of the policy that the search is compared with at equal tokens, of those evaluated."""
GREEDY = "greedy"


def system_section(facts: RunFacts) -> list[Block]:
    """Each round's policy searching with its preference model on held-out problems, beside the policy alone."""
    found = {index: one for index in facts.rounds if (one := facts.system(index))}
    heading = Heading("The full system")
    if not found:
        return [heading, Paragraph("The full system was not evaluated in this run.")]
    levels = list(found[min(found)])
    alone = {index: facts.policy(index, searched=True) for index in found}
    panels = []
    for level in levels:
        lines = [
            Line(label="search", colour=SEARCH, points=[plain_point(i, one[level][SELECTION]) for i, one in found.items()]),
            Line(label="policy alone", colour=POLICY, points=[rate_point(i, one[level]) for i, one in alone.items()]),
        ]  # fmt: skip
        if level == ALL_LEVELS:
            there = [Point(index, share) for index, share in published.SYSTEM_MATH.items()]
            lines.append(Line(label="paper, MATH", colour=PAPER, points=there, dashes="--", numbered=False))
        panels.append(shares(titled(level), lines, ticks=ROUND_TICKS))
    rows: list[list[str]] = []
    strong: set[int] = set()
    for index, one in found.items():
        strong.add(len(rows))
        paper = percent(published.SYSTEM_MATH[index])
        rows.append(
            [f"r{index} + PPM r{index}", *(accuracy_text(one[level][SELECTION]) for level in levels), paper]
        )
        paper = percent(published.POLICY_MATH[index])
        rows.append(
            [f"r{index} alone", *(with_interval(alone[index][level].rate, alone[index][level].interval) for level in levels), paper]
        )  # fmt: skip
    last = max(found)
    search, policy = found[last][ALL_LEVELS][SELECTION], alone[last][ALL_LEVELS]
    return [
        heading,
        Paragraph(
            f"With the preference model choosing among several attempts, policy r{last} solves {search['accuracy']:.1%} of the "
            f"{policy.num_problems} held-out problems that search was evaluated on; alone it solves {policy.rate:.1%} of the same "
            f"ones. Search spends {search['tokens']:,.0f} tokens per problem for that and never sees a reference answer; the next "
            "section asks whether those tokens are better spent on search than on more samples."
        ),
        Figure(
            "system",
            panels,
            "Accuracy on held-out problems, with search and without; upright bars are 95% intervals. Dashed: the paper's table 6.",
        ),
        Table(["accuracy (95% interval)", *levels, "paper, MATH"], rows, frozenset(strong)),
        Heading("Other ways to select the answer", 3),
        Paragraph(
            f"Of all the trajectories of round {last}'s searches, the answer that counts is that of the best-scored one. Others "
            "would have been:"
        ),
        Table(
            ["selected answer", *levels],
            [
                [text, *(accuracy_text(found[last][level].get(method)) for level in levels)]
                for method, text in METHODS.items()
            ],
            frozenset({0}),
        ),
    ]


def scaling_section(facts: RunFacts) -> list[Block]:
    """Accuracy against tokens, and the comparison at equal tokens with an honest verdict per level."""
    scaling = facts.scaling()
    heading = Heading("Search against sampling, at equal tokens")
    if not scaling:
        return [heading, Paragraph("This is measured after the recipe's last round.")]
    curves, equal_tokens = by_level(scaling["curves"]), by_level(scaling["equal_tokens"])
    budgets = {level: fair_budget(by_method[SELECTION]) for level, by_method in equal_tokens.items()}
    most = scaling["trees_per_problem"]
    return [
        heading,
        Paragraph(
            "Whoever samples more is right more often, so methods are compared by what they make of the same number of tokens, on "
            f"{scaling['problems'][ALL_LEVELS]:,} held-out problems. {_opening(budgets)}"
        ),
        Figure(
            "scaling",
            [by_tokens(titled(level), _curves(one)) for level, one in curves.items()],
            f"Accuracy against sampled tokens per problem, with 95% bands: search with 1 to {most} trees (trajectories), and "
            "methods that use independent samples of the same policy. The dotted line is where any sample is right: no way to "
            "select among samples exceeds it. Vertical axes differ. The paper's system goes from "
            f"{published.SYSTEM_MATH[4]:.1%} to {published.SYSTEM_MATH_64:.1%} on MATH with 64 trajectories (figure 3).",
        ),
        Heading("Verdict", 3),
        Paragraph(
            "Search minus each baseline, on the same problems, at the largest number of trees whose tokens buy no more samples "
            "than there are; greedy is a single path, whatever the tokens. A filled point is a difference whose 95% interval "
            "excludes zero; hollow: not told apart. Intervals are not corrected for their number."
        ),
        _verdict_table(budgets),
        Figure(
            "verdict", _differences(budgets), "Search minus baseline at equal tokens, in percentage points."
        ),
        _comparisons(equal_tokens),
        *_exhausted_note(equal_tokens),
        Heading("Ways to select among the trajectories of a search", 3),
        Table(
            [f"selected answer, {most} trees", *curves],
            [
                [text, *(accuracy_text(curves[level]["search"][method][-1]) for level in curves)]
                for method, text in METHODS.items()
            ],
            frozenset({0}),
        ),
    ]


def fair_budget(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the points of a search at 1, 2, 4, … trees, that with the most trees whose tokens the sampling baselines could
    spend; the first if there is none."""
    fair = [row for row in rows if not any(row["baselines"][name]["exhausted"] for name in _sampling(row))]
    return fair[-1] if fair else rows[0]


def _sampling(row: Mapping[str, Any]) -> list[str]:
    return [name for name in SAMPLES if name in row["baselines"]]


def _shown(row: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Baselines of a row, in the order of the page: key to (name, colour)."""
    shown = {GREEDY: ("greedy", POLICY), **SAMPLES}
    return {name: text for name, text in shown.items() if name in row["baselines"]}


def _opening(budgets: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict over all levels as a sentence."""
    said = [f"{word} {listed(names)}" for word, names in _verdicts(budgets[ALL_LEVELS]).items() if names]
    return f"Over all levels, search is {'; '.join(said)}."


def _verdicts(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Verdict, as it stands before what it is about, to the baselines that it is about."""
    found: dict[str, list[str]] = {"ahead of": [], "not told apart from": [], "behind": []}
    for name, (text, _) in _shown(row).items():
        one = row["baselines"][name]
        word = verdict(one["difference_low"], one["difference_high"])
        found[next(key for key in found if key.startswith(word))].append(text)
    return found


def _verdict_table(budgets: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [titled(level), *("; ".join(names) or "–" for names in _verdicts(row).values())]
        for level, row in budgets.items()
    ]
    return Table(["search is", "ahead of", "not told apart from", "behind"], rows, wrapped=True)


def _curves(level: Mapping[str, Any]) -> list[Line]:
    """The lines of one panel."""

    def line(
        label: str, colour: str, found: Sequence[Mapping[str, Any]], *, sure: bool = True, dashes: str = "-"
    ) -> Line:
        drawn = [
            plain_point(one["tokens"], one) if sure else Point(one["tokens"], one["accuracy"])
            for one in found
        ]
        return Line(label=label, colour=colour, points=drawn, dashes=dashes, numbered=False)

    samples = level["samples"]
    lines = [line("any sample right", CEILING, samples["pass"], sure=False, dashes=":")]
    for name, (text, colour) in SAMPLES.items():
        if name in samples and name != "weighted_vote:ppm":
            lines.append(line(text, colour, samples[name]))
    lines.append(line("MCTS + PPM", SEARCH, level["search"][SELECTION]))
    return lines


def _differences(budgets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    estimates = {
        level: [
            Estimate(
                label=text, colour=colour, value=row["baselines"][name]["difference"],
                low=row["baselines"][name]["difference_low"], high=row["baselines"][name]["difference_high"],
            )
            for name, (text, colour) in _shown(row).items()
        ]
        for level, row in budgets.items()
    }  # fmt: skip
    ends = [abs(end) for rows in estimates.values() for row in rows for end in (row.low, row.high)]
    reach = 1.05 * max([0.05, *ends])
    return [
        differences(
            f"{titled(level)}: {budgets[level]['num_trees']} trees, {budgets[level]['tokens']:,.0f} tokens",
            rows, reach=reach, behind="search behind", ahead="search ahead",
        )
        for level, rows in estimates.items()
    ]  # fmt: skip


def _comparisons(table: Mapping[str, Any]) -> Table:
    """Every level and number of trees."""
    names = _shown(table[ALL_LEVELS][SELECTION][0])
    rows = []
    for level, by_method in table.items():
        for row in by_method[SELECTION]:
            cells = []
            for name in names:
                one = row["baselines"][name]
                mark = "†" if one["exhausted"] and name != GREEDY else ""
                text = points(one["difference"], one["difference_low"], one["difference_high"])
                cells.append(f"{text}{mark} {verdict(one['difference_low'], one['difference_high'])}")
            rows.append([level, str(row["num_trees"]), f"{row['tokens']:,.0f}", accuracy_text(row), *cells])
    header = ["level", "trees", "tokens", "MCTS + PPM", *(f"over {text}" for text, _ in names.values())]
    return Table(header, rows, folded="Every level and number of trees")


def _exhausted_note(table: Mapping[str, Any]) -> list[Block]:
    rows = [row for by_method in table.values() for row in by_method[SELECTION]]
    if not any(row["baselines"][name]["exhausted"] for row in rows for name in _sampling(row)):
        return []
    return [
        Paragraph(
            "† The search's tokens would buy more samples than were drawn, so the baseline spent fewer: no comparison at equal "
            "tokens. evaluation.num_samples draws more.",
            note=True,
        )
    ]
