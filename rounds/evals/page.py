"""An evaluation as a page: which way to answer is right how often for the same tokens, and how that grows with more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from policy.evaluate import Point as Measured
from policy.statistics import ALL_LEVELS
from rounds.charts.canvas import CEILING, INK, ORM, POLICY, PPM, PQM, SEARCH, VOTE
from rounds.charts.lines import Line, Point, by_tokens
from rounds.evals.results import Budgeted, Results, SetResults
from rounds.page import Block, Figure, Heading, Page, Paragraph, Table, write
from rounds.report.facts import points, titled, verdict, with_interval

REPORT = "report"
_COLOURS = (SEARCH, PPM, VOTE, ORM, PQM, INK, POLICY)
MAX_LINES = 6
"""Of one panel: more cannot be told apart."""


def write_report(results: Results, folder: Path) -> Path:
    """Write report.md with its figures and report.html; the path of the page."""
    settings = results.settings
    guide = (
        f", preference model `{settings['ppm']['hash'][:8]}`" if settings["ppm"] else ", no preference model"
    )
    subtitle = (
        f"policy `{settings['policy']['hash'][:8]}`{guide}; seed {settings['seed']}; "
        f"all that decides it is in settings.json"
    )
    blocks: list[Block] = [
        Paragraph(
            "Whoever samples more is right more often, so ways to answer are compared by what they make of the same number of "
            "sampled tokens per problem. Brackets are 95% intervals: what another draw of problems would show. No search sees a "
            "reference answer; answers are graded after it has ended."
        )
    ]
    for one in results.sets:
        blocks += _set(one)
    write(Page("Evaluation", subtitle, blocks), folder, REPORT)
    return folder / f"{REPORT}.html"


def _set(one: SetResults) -> list[Block]:
    levels = [level for level in one.levels if level != ALL_LEVELS or len(one.levels) == 1]
    shown = [ALL_LEVELS, *levels] if len(one.levels) > 2 else [ALL_LEVELS]
    return [
        Heading(one.title),
        Paragraph(
            f"{one.levels[ALL_LEVELS]:,} problems from {one.origin}, {one.budget:,.0f} tokens per problem."
        ),
        Table(
            ["at equal tokens", "trees", "tokens", *map(titled, shown), "against the first row"],
            [_row(one, at, shown) for at in range(len(one.compared[ALL_LEVELS]))],
            frozenset({0}),
        ),
        *_exhausted(one),
        Figure(
            f"curves-{one.name}",
            [by_tokens(titled(level), _lines(one.curves[level])) for level in shown],
            f"{one.title}: accuracy against tokens per problem. Dotted: any sample is right.",
        ),
        Table(
            ["all trees", "trees", "tokens", *map(titled, shown)],
            [
                [
                    label, f"{curve[-1].num_trees}", f"{curve[-1].tokens:,.0f}",
                    *(_accuracy(one.curves[level][label][-1]) for level in shown),
                ]
                for label, curve in one.curves[ALL_LEVELS].items()
            ],
            folded="With all the trees that were searched",
        ),
    ]  # fmt: skip


def _row(one: SetResults, at: int, shown: Sequence[str]) -> list[str]:
    row = one.compared[ALL_LEVELS][at]
    return [
        row.label,
        f"{row.point.num_trees}{'†' if row.exhausted else ''}",
        f"{row.point.tokens:,.0f}",
        *(_accuracy(one.compared[level][at].point) for level in shown),
        _against(row),
    ]


def _against(row: Budgeted) -> str:
    found = row.over_first
    if found is None:
        return ""
    low, high = -found.interval.high, -found.interval.low
    return f"{points(-found.difference, low, high)} {verdict(low, high)}"


def _accuracy(point: Measured) -> str:
    return with_interval(point.accuracy, point.interval)


def _exhausted(one: SetResults) -> list[Block]:
    if not any(row.exhausted for row in one.compared[ALL_LEVELS]):
        return []
    return [
        Paragraph(
            "† The budget would pay for more trees than there are, so this spends fewer tokens than the others.",
            note=True,
        )
    ]


def _lines(curves: Mapping[str, Sequence[Measured]]) -> list[Line]:
    lines = []
    if "pass@k" in curves:
        found = [Point(max(1.0, one.tokens), one.accuracy) for one in curves["pass@k"]]
        lines.append(Line(label="any sample right", colour=CEILING, points=found, dashes=":", numbered=False))
    others = [(label, curve) for label, curve in curves.items() if label != "pass@k"][:MAX_LINES]
    for (label, curve), colour in zip(reversed(others), reversed(_COLOURS[: len(others)]), strict=True):
        drawn = [
            Point(max(1.0, one.tokens), one.accuracy, one.interval.low, one.interval.high) for one in curve
        ]
        lines.append(Line(label=label, colour=colour, points=drawn, numbered=False))
    return lines
