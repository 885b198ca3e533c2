"""What sampled answers say of a problem: how hard it is, and whether its own answer can be trusted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rstar.grading import Grader
from rstar.store import Store


@dataclass(slots=True)
class Samples:
    """The sampled answers of one problem; `num_right` of them are equal to its reference answer."""

    answers: list[str] = field(default_factory=list)
    num_right: int = 0

    @property
    def pass_rate(self) -> float:
        """Share of right answers, in [0, 1]."""
        return self.num_right / len(self.answers)


def read_samples(store: Store, problem_ids: Collection[str]) -> dict[str, Samples]:
    """The answers of every trajectory of the store, by problem id. Equal answers of one expansion are one trajectory, so
    only a store of independent samples (1 rollout of 1 candidate, many trees) gives an unbiased rate."""
    found: dict[str, Samples] = {}
    for trajectory in store.trajectories(problem_ids=problem_ids):
        samples = found.setdefault(trajectory.problem_id, Samples())
        samples.answers.append(trajectory.answer)
        samples.num_right += bool(trajectory.verified)
    return found


def level_by_pass_rate(rate: float, bounds: Mapping[str, float]) -> str | None:
    """The level with the highest bound that the rate reaches; None below all of them."""
    reached = [(bound, level) for level, bound in bounds.items() if rate >= bound]
    return max(reached)[1] if reached else None


def doubt(answer: str, samples: Samples | None, grader: Grader, *, min_agreeing: int) -> str:
    """Why a synthetic problem's answer is not to be trusted; empty if it is (rStar-Math, section 4.1)."""
    if samples is None:
        return "no answer was sampled"
    classes = asyncio.run(grader.classes([answer, *samples.answers]))
    sizes = Counter(classes[1:])
    most, size = sizes.most_common(1)[0]
    if size < min_agreeing:
        return f"at most {size} of {len(samples.answers)} sampled answers agree"
    if sizes[classes[0]] < size:
        other = samples.answers[classes[1:].index(most)]
        return f"{size} of {len(samples.answers)} sampled answers say {other[:40]!r}"
    return ""
