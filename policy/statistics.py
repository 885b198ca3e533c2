"""How sure a pass rate is, and whether two models differ on the same problems. Pure functions of outcomes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rstar.seeds import derive

ALL_LEVELS = "all"
"""Name of the row over every level."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """One row of a results table: how many problems of a level were solved."""

    level: str
    num_problems: int
    num_solved: int
    interval: Interval
    """Wilson's, of the rate."""

    @property
    def rate(self) -> float:
        return self.num_solved / self.num_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean outcome of the second model minus that of the first on the same problems, with its bootstrap interval."""

    num_problems: int
    difference: float
    interval: Interval

    @property
    def significant(self) -> bool:
        """The interval does not hold 0."""
        return self.interval.low > 0 or self.interval.high < 0


def wilson_interval(num_solved: int, num_problems: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a rate (E. B. Wilson, 1927), in [0, 1]; sound for small counts and rates near 0 or 1.

    Raises ValueError unless 0 <= num_solved <= num_problems, num_problems >= 1 and 0 < confidence < 1.
    """
    if not (num_problems >= 1 and 0 <= num_solved <= num_problems):
        raise ValueError(f"{num_solved} of {num_problems} is no rate")
    n, rate, z = num_problems, num_solved / num_problems, _quantile(confidence)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; the formula misses it by rounding.
    low = 0.0 if num_solved == 0 else centre - half
    high = 1.0 if num_solved == num_problems else centre + half
    return Interval(low, high)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare two models on the same problems: `first[i]` and `second[i]` are their outcomes (such as 0 or 1) on
    problem i. The interval is the percentile bootstrap over problems, so what makes a problem hard for both cancels.

    Raises ValueError for unequal lengths or no problem.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"{len(first)} and {len(second)} outcomes; there must be as many of each, and at least one"
        )
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    return PairedDifference(
        num_problems=len(first),
        difference=float(differences.mean()),
        interval=_bootstrap(differences, "paired_difference", seed, num_resamples, confidence),
    )


def mean_interval(
    outcomes: Sequence[float], *, seed: int, num_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """The percentile bootstrap interval of a mean outcome over problems, which may be expectations, not only 0 or 1.

    Where all outcomes are equal it has no width; `wilson_interval` knows better if they are 0 or 1. Raises ValueError
    for no problem.
    """
    if not outcomes:
        raise ValueError("no outcomes; there must be at least one")
    return _bootstrap(
        np.asarray(outcomes, dtype=np.float64), "mean_interval", seed, num_resamples, confidence
    )


def _bootstrap(
    values: NDArray[np.float64], name: str, seed: int, num_resamples: int, confidence: float
) -> Interval:
    """The middle `confidence` of the means of resamples of `values`."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; it must be at least 1")
    tail = 0.5 * (1 - _checked(confidence))
    # A resample of n problems is how often each distinct value was drawn, so few categories make it cheap.
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(derive(seed, name))
    draws = generator.multinomial(len(values), counts / len(values), size=num_resamples)
    low, high = np.quantile(draws @ distinct / len(values), [tail, 1 - tail])
    return Interval(float(low), float(high))


def pass_rates(
    outcomes: Iterable[tuple[str, bool]], *, levels: Sequence[str] = (), confidence: float = 0.95
) -> list[PassRate]:
    """Rows of a results table from (level, solved) pairs: `levels` first in their order, other levels by name, and
    `ALL_LEVELS` last. A level without problems has no row; no outcomes give no rows."""
    solved: dict[str, list[bool]] = defaultdict(list)
    for level, is_solved in outcomes:
        solved[level].append(is_solved)
    order = [level for level in levels if level in solved]
    order += sorted(level for level in solved if level not in levels)
    table = {level: solved[level] for level in order}
    if table:
        table[ALL_LEVELS] = [is_solved for level in order for is_solved in table[level]]
    return [
        PassRate(
            level=level,
            num_problems=len(row),
            num_solved=sum(row),
            interval=wilson_interval(sum(row), len(row), confidence=confidence),
        )
        for level, row in table.items()
    ]


def _quantile(confidence: float) -> float:
    """Two-sided standard normal quantile: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 * (1 + _checked(confidence)))


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    return confidence
