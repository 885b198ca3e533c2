"""What a report is made from, and how its numbers are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policy.statistics import ALL_LEVELS, Interval, PassRate, pass_rates
from rounds import health
from rounds.artifact import Manifest
from rounds.charts.lines import Point
from rounds.recipe import LAST_ROUND
from rstar.problems import Problem
from rstar.selection import Method
from rstar.tree import Tree

LEVELS = ("easy", "medium", "olympiad")
SELECTION = Method.BEST
"""How the full system's answer is selected wherever one number stands for it: the best-scored trajectory, as in the
paper (section 4.1). Chosen before any number was seen; the other ways stand beside it."""
ROUND_TICKS = {index: f"round {index}" for index in range(1, LAST_ROUND + 1)}
POLICY_TICKS = {0: "base", **{index: f"r{index}" for index in range(1, LAST_ROUND + 1)}}

ABLATIONS = "ablations"
"""Folder of the stages that replace parts of the last round."""

Outcomes = Mapping[str, tuple[str, bool]]
"""Problem id to (level, solved)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the stages of a run left behind. Only `problems`, `base/evaluation` and the stages of a round up to its
    `evaluation` must be there; a section whose stages are missing says so or is left out."""

    name: str
    seed: int
    command: str
    """That made the run."""
    machine: str
    manifests: Mapping[str, Manifest]
    """Of every finished stage, by its name, in the order in which they were made."""
    outcomes: Mapping[str, Outcomes]
    """Of every greedy evaluation, by the name of its stage."""
    searched: frozenset[str] = frozenset()
    """The held-out problems that the full system was evaluated on."""
    tree: Tree | None = None
    """A tree of the last round that is worth a look."""
    unsolved: Sequence[Problem] = ()
    """Some of the training problems that the last round did not solve."""

    @property
    def rounds(self) -> range:
        """Indices of the finished rounds, from 1."""
        last = max(index for index in ROUND_TICKS if f"round{index}/evaluation" in self.manifests)
        return range(1, last + 1)

    @property
    def last(self) -> int:
        """Index of the last finished round."""
        return self.rounds[-1]

    def summary(self, stage: str) -> dict[str, Any]:
        """What a stage found out; empty if it has not run."""
        return self.manifests[stage].summary if stage in self.manifests else {}

    def system(self, index: int, *, fixed_policy: bool = False) -> dict[str, Any]:
        """Level to method to point, of a round's policy (or of r1) with the round's preference model; empty if that was
        not evaluated."""
        stage = "ppm_evaluation" if fixed_policy and index > 1 else "system"
        return by_level(self.summary(f"round{index}/{stage}").get("accuracy", {}))

    def scaling(self) -> dict[str, Any]:
        """The comparison of searches with samples; that of the ablations has more value models to select with."""
        found = self.summary("scaling") or self.summary(f"round{self.last}/scaling")
        return found | self.summary(f"{ABLATIONS}/scaling")

    def policy(self, index: int, *, searched: bool = False) -> dict[str, PassRate]:
        """Level to greedy pass rate of a round's policy (0: the base), of all held-out problems or of those that the full
        system was evaluated on."""
        outcomes = self.outcomes["base/evaluation" if index == 0 else f"round{index}/evaluation"]
        return rates(one for name, one in outcomes.items() if not searched or name in self.searched)


def rates(outcomes: Iterable[tuple[str, bool]]) -> dict[str, PassRate]:
    """Level to pass rate, the known levels first, all levels last."""
    return {rate.level: rate for rate in pass_rates(outcomes, levels=LEVELS)}


def coverage(search: Mapping[str, Any]) -> dict[str, float]:
    """Level to share of the training problems that a search solved, all levels last."""
    counts: dict[str, dict[str, int]] = search["coverage"]
    found = {level: counts[level]["solved"] / counts[level]["problems"] for level in ordered(counts)}
    return {**found, ALL_LEVELS: health.coverage(search)}


def ordered(levels: Iterable[str]) -> list[str]:
    """Known levels in their order, then others by name, all levels last."""
    found = set(levels)
    others = sorted(found - {*LEVELS, ALL_LEVELS})
    return [level for level in (*LEVELS, *others, ALL_LEVELS) if level in found]


def by_level(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a summary, whose keys are levels, in the levels' order: manifests sort keys by name."""
    return {level: table[level] for level in ordered(table)}


def titled(level: str) -> str:
    """A level as the title of a panel."""
    return "all levels" if level == ALL_LEVELS else level


def rate_point(x: float, rate: PassRate) -> Point:
    """A pass rate in a drawing."""
    return Point(x, rate.rate, rate.interval.low, rate.interval.high)


def plain_point(x: float, point: Mapping[str, Any]) -> Point:
    """An evaluation's point (`rounds.evaluation.plain_point`) in a drawing."""
    return Point(x, point["accuracy"], point["low"], point["high"])


def percent(share: float | None) -> str:
    """A share, or that there is none."""
    return "–" if share is None else f"{share:.1%}"


def with_interval(share: float, interval: Interval) -> str:
    """A share and the ends of its interval."""
    return f"{share:.1%} ({100 * interval.low:.0f}–{100 * interval.high:.0f})"


def accuracy_text(point: Mapping[str, Any] | None) -> str:
    """An evaluation's point as text."""
    if point is None:
        return "–"
    return with_interval(point["accuracy"], Interval(point["low"], point["high"]))


def points(difference: float, low: float, high: float) -> str:
    """A difference of shares in percentage points, with its interval."""
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def change(first: float, last: float) -> str:
    """How a share changed, in words that go after its name."""
    if round(1000 * first) == round(1000 * last):
        return f"stayed at {last:.1%}"
    return f"{'rose' if last > first else 'fell'} from {first:.1%} to {last:.1%}"


def verdict(low: float, high: float) -> str:
    """What the interval of a difference allows to say of the first of two."""
    return "ahead" if low > 0 else "behind" if high < 0 else "not told apart"


def listed(texts: Sequence[str]) -> str:
    """Texts as an enumeration."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))
