"""What grading says about a pair of answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class VerdictReason(StrEnum):
    """Why two answers are equal or not. The first five say equal, the others do not."""

    IDENTICAL = "identical"
    """The same text after normalisation."""
    NUMERIC = "numeric"
    """The same number: exactly, or constants such as `\\sqrt{8}` and `2\\sqrt{2}` that agree to 40 digits."""
    APPROXIMATE = "approximate"
    """A decimal that is the other number, rounded or cut off after at least 6 significant digits."""
    STRUCTURAL = "structural"
    """The same list, set, tuple, interval, union, matrix or equation, with equal members."""
    SYMBOLIC = "symbolic"
    """Expressions or relations that computer algebra finds equal."""
    DIFFERENT = "different"
    """Both sides are understood, and they differ."""
    UNPARSABLE = "unparsable"
    """A side is empty, too long, or not mathematics that can be read; the texts are not the same."""
    TIMEOUT = "timeout"
    """Comparing took longer than the limit."""
    CRASH = "crash"
    """Comparing used up a worker's memory, or killed two workers that could grade everything else."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`equal` with its reason; `detail` is one line for people, possibly empty."""

    equal: bool
    reason: VerdictReason
    detail: str = ""
