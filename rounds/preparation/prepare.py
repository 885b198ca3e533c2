"""The preparation of problems, filter by filter, with an account of every problem that was left out and why."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rounds.preparation.config import PreparationConfig
from rounds.preparation.contamination import EvaluationIndex, Overlap
from rounds.preparation.duplicates import Equal, find_duplicates
from rounds.preparation.samples import Samples, doubt, level_by_pass_rate
from rounds.preparation.text import normalised
from rstar.grading import Grader
from rstar.problems import Problem


class Reason(StrEnum):
    """Why a problem is left out; the first that holds, in this order."""

    MALFORMED = "malformed"
    """Its row is no problem."""
    NO_ANSWER = "no answer"
    CONTRADICTION = "contradiction"
    """Another problem asks the same and has another answer."""
    DUPLICATE = "duplicate"
    """An earlier problem has the same text."""
    NEAR_DUPLICATE = "near-duplicate"
    """An earlier problem has the same normalised text."""
    EVALUATED = "evaluated"
    """An evaluation problem has the same normalised text."""
    CONTAMINATED = "contaminated"
    """An evaluation problem shares a run of words."""
    DOUBTFUL = "doubtful"
    """A synthetic problem whose sampled answers do not bear out its own."""
    MASTERED = "mastered"
    """It is solved too often to be learned from."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A problem that was left out. `detail` says what it repeats, shares or lacks."""

    problem_id: str
    source: str
    reason: Reason
    detail: str = ""


@dataclass(slots=True)
class Prepared:
    """What came of a preparation."""

    problems: list[Problem]
    drops: list[Drop]
    common_grams: Counter[str] = field(default_factory=Counter)
    """Runs of words that problems share with the evaluation set, by number of problems: an exercise's set phrases show
    here, and `max_common_ngram` lets them pass."""

    def counts(self) -> dict[str, int]:
        """Problems left out, by reason."""
        found = Counter(drop.reason for drop in self.drops)
        return {str(reason): found[reason] for reason in Reason if reason in found}


def prepare(
    problems: Sequence[Problem],
    evaluation: Sequence[Problem],
    config: PreparationConfig,
    *,
    grader: Grader,
    samples: Mapping[str, Samples] | None = None,
) -> Prepared:
    """Pass the problems through every filter, in order. `samples` are sampled answers by problem id.

    Ids become unique: of equal ones the later get their source before them, and a number where that is not enough.
    """
    drops: list[Drop] = []
    kept = _with_answers(problems, drops)
    kept = _without_duplicates(kept, drops, lambda one, other: grader.grade_sync(one, other).equal)
    kept, common = _without_contaminated(kept, evaluation, config, drops)
    kept = _sampled(kept, samples or {}, config, grader, drops)
    return Prepared(_unique_ids(kept), drops, common)


def _with_answers(problems: Sequence[Problem], drops: list[Drop]) -> list[Problem]:
    drops += [Drop(p.id, p.source, Reason.NO_ANSWER) for p in problems if not p.answer]
    return [problem for problem in problems if problem.answer]


def _without_duplicates(problems: Sequence[Problem], drops: list[Drop], equal: Equal) -> list[Problem]:
    found = find_duplicates(problems, equal)
    kept = []
    for position, problem in enumerate(problems):
        for reason, repeats in (
            (Reason.CONTRADICTION, found.contradicting),
            (Reason.DUPLICATE, found.exact),
            (Reason.NEAR_DUPLICATE, found.normalised),
        ):
            if position in repeats:
                first = problems[repeats[position]]
                detail = f"asks the same as {first.id}"
                if reason is Reason.CONTRADICTION:
                    detail = f"{detail}; the answers are not all equal: {problem.answer[:40]!r} here"
                drops.append(Drop(problem.id, problem.source, reason, detail))
                break
        else:
            kept.append(problem)
    return kept


def _without_contaminated(
    problems: Sequence[Problem], evaluation: Sequence[Problem], config: PreparationConfig, drops: list[Drop]
) -> tuple[list[Problem], Counter[str]]:
    """Two passes: how many problems share a run of words is known only after the first."""
    index = EvaluationIndex(((p.id, p.question) for p in evaluation), ngram=config.ngram)
    overlaps: dict[int, list[Overlap]] = {}
    common: Counter[tuple[str, ...]] = Counter()
    for position, problem in enumerate(problems):
        if same := index.equal(normalised(problem.question)):
            overlaps[position] = [same]
        elif shared := index.shared(problem.question):
            overlaps[position] = shared
            common.update({overlap.gram for overlap in shared})
    limit = config.max_common_ngram
    kept = []
    for position, problem in enumerate(problems):
        found = [
            o for o in overlaps.get(position, ()) if limit is None or not o.gram or common[o.gram] <= limit
        ]
        if found:
            reason = Reason.CONTAMINATED if found[0].gram else Reason.EVALUATED
            drops.append(Drop(problem.id, problem.source, reason, str(found[0])))
        else:
            kept.append(problem)
    return kept, Counter({" ".join(gram): count for gram, count in common.items()})


def _sampled(
    problems: Sequence[Problem],
    samples: Mapping[str, Samples],
    config: PreparationConfig,
    grader: Grader,
    drops: list[Drop],
) -> list[Problem]:
    """Give levels; leave out synthetic problems that are in doubt, and problems that are solved too often."""
    kept = []
    for problem in problems:
        own = samples.get(problem.id)
        synthetic = problem.source in config.synthetic_sources
        if synthetic and (why := doubt(problem.answer, own, grader, min_agreeing=config.min_agreeing)):
            drops.append(Drop(problem.id, problem.source, Reason.DOUBTFUL, why))
            continue
        level = config.levels.get(problem.source, problem.level)
        if own is not None:
            if config.max_pass_rate is not None and own.pass_rate > config.max_pass_rate:
                detail = f"{own.num_right} of {len(own.answers)} sampled answers are right"
                drops.append(Drop(problem.id, problem.source, Reason.MASTERED, detail))
                continue
            level = level_by_pass_rate(own.pass_rate, config.pass_rates) or level
        kept.append(problem if level == problem.level else dataclasses.replace(problem, level=level))
    return kept


def _unique_ids(problems: Sequence[Problem]) -> list[Problem]:
    taken: set[str] = set()
    unique = []
    for problem in problems:
        name, number = problem.id, 1
        while name in taken:
            name = f"{problem.source}/{problem.id}" + (f"-{number}" if number > 1 else "")
            number += 1
        taken.add(name)
        unique.append(problem if name == problem.id else dataclasses.replace(problem, id=name))
    return unique
