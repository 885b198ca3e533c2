"""Problems that ask the same: the first stays, unless their answers differ; then at least one is wrong, and none stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rounds.preparation.text import normalised
from rstar.problems import Problem

Equal = Callable[[str, str], bool]
"""Whether two answers are the same."""


@dataclass(slots=True)
class Duplicates:
    """By position in the problems: what a duplicate repeats (position), as it stands or when normalised, and which
    problems contradict each other (position of the first that asks the same)."""

    exact: dict[int, int]
    normalised: dict[int, int]
    contradicting: dict[int, int]


def find_duplicates(problems: Sequence[Problem], equal: Equal) -> Duplicates:
    """Compare all questions by their normalised text; answers are compared only among problems that ask the same."""
    found = Duplicates({}, {}, {})
    first_by_text: dict[bytes, int] = {}
    for position, problem in enumerate(problems):
        key = hashlib.blake2b(normalised(problem.question).encode(), digest_size=16).digest()
        first = first_by_text.setdefault(key, position)
        if first == position:
            continue
        if not equal(problem.answer, problems[first].answer):
            found.contradicting[first] = found.contradicting[position] = first
        repeats = found.exact if problem.question == problems[first].question else found.normalised
        repeats[position] = first
    for position, first in (*found.exact.items(), *found.normalised.items()):
        if first in found.contradicting:
            found.contradicting[position] = first
    for position in found.contradicting:
        found.exact.pop(position, None)
        found.normalised.pop(position, None)
    return found
