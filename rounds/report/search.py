"""How the searches of all rounds went: why paths end, how deep and wide trees are, how programs end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rounds.charts.bars import columns, parts, spaced
from rounds.charts.canvas import FAILED, INK, ORM, PQM, RIGHT, SEARCH, VOTE, WRONG
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.facts import RunFacts
from rstar.protocols import ExecutionVerdict
from rstar.tree import TerminalReason

ENDS = {
    "right answer": RIGHT,
    "wrong answer": WRONG,
    TerminalReason.CODE_ERRORS: FAILED,
    TerminalReason.MAX_DEPTH: VOTE,
    TerminalReason.UNPARSABLE: ORM,
    TerminalReason.CONTEXT_OVERFLOW: PQM,
}
VERDICT_COLOURS = (RIGHT, FAILED, VOTE, ORM, PQM, WRONG, INK)


def search_section(facts: RunFacts) -> list[Block]:
    """Health of every round's search, the last one in detail."""
    found = {f"round {index}": facts.summary(f"round{index}/search") for index in facts.rounds}
    last = found[f"round {facts.last}"]
    measures = {name: _measures(one) for name, one in found.items()}
    names = list(measures[f"round {facts.last}"])
    verdicts = dict(zip(map(str, ExecutionVerdict), VERDICT_COLOURS, strict=False))
    answers = _ends(last)
    wrong, total = answers["wrong answer"], max(1, sum(answers.values()))
    return [
        Heading("How the search went"),
        Paragraph(
            f"In round {facts.last}, {answers['right answer'] / total:.0%} of all paths that were followed to an end reached a "
            f"right answer and {wrong / total:.0%} a wrong one; the rest got nowhere. A healthy search has both kinds of answers, "
            "for the preference model learns from their difference, and few dead ends."
        ),
        Figure(
            "ends",
            [
                parts("why paths ended", {name: _ends(one) for name, one in found.items()}, colours=ENDS, percent=True),
                parts(
                    "how steps' programs ended", {name: one["verdicts"] for name, one in found.items()},
                    colours=verdicts, percent=True,
                ),
            ],
            "By round. Code errors: no candidate step ran; max depth: too many steps; unparsable: not in the step format; context "
            "overflow: too many tokens. Right: what the sandbox said of every distinct step.",
        ),
        Figure(
            "shape",
            [
                _histogram("depth of answers", last["depths"], "steps from the question to the answer"),
                _histogram("branching", last["branching"], "different next steps that ran, per expanded step"),
            ],
            f"The shape of round {facts.last}'s trees.",
        ),
        Table(["", *found], [[name, *(measures[one].get(name, "–") for one in found)] for name in names]),
    ]  # fmt: skip


def _ends(summary: Mapping[str, Any]) -> dict[str, int]:
    ends = {name: count for name, count in summary["terminals"].items() if name != TerminalReason.ANSWERED}
    return {"right answer": summary["answers_right"], "wrong answer": summary["answers_wrong"], **ends}


def _histogram(title: str, counts: Mapping[str, int], xlabel: str) -> str:
    """Counts by a number, without gaps."""
    found = {int(key): count for key, count in counts.items()}
    bars = {str(key): found.get(key, 0) for key in range(min(found), max(found) + 1)} if found else {}
    return columns(title, bars, colours=[SEARCH] * len(bars), xlabel=xlabel)


def _measures(summary: Mapping[str, Any]) -> dict[str, str]:
    answers = max(1, summary["answers_right"] + summary["answers_wrong"])
    dead_ends = sum(count for name, count in summary["terminals"].items() if name != TerminalReason.ANSWERED)
    ends = max(1, sum(summary["terminals"].values()))
    verdicts = summary["verdicts"]
    return {
        "trees": f"{summary['trees']:,}",
        "of them exhausted before their last rollout": f"{summary['exhausted']:,}",
        "rollouts": f"{summary['rollouts']:,}",
        "nodes": f"{summary['nodes']:,}",
        "candidates equal to a sibling, merged": f"{summary['merged']:,}",
        "next steps that ran, per expanded step": f"{_mean(summary['branching']):.2f}",
        "depth of answers, mean": f"{_mean(summary['depths']):.1f}",
        "dead ends, of ended paths": f"{dead_ends / ends:.1%}",
        "answers that are right": f"{summary['answers_right'] / answers:.1%}",
        "trees solved by their first rollout": f"{summary['solved_at'].get('1', 0):,}",
        "trees solved by a later one": f"{sum(n for at, n in summary['solved_at'].items() if at != '1'):,}",
        "problems solved by a further tree alone": f"{summary['solved_later']:,}",
        "programs run": f"{summary['executions']:,}",
        **{
            f"steps whose program ended: {spaced(name)}": f"{verdicts[name] / sum(verdicts.values()):.1%}"
            for name in map(str, ExecutionVerdict)
            if name in verdicts
        },
    }


def _mean(counts: Mapping[str, int]) -> float:
    return sum(int(key) * count for key, count in counts.items()) / max(1, sum(counts.values()))
