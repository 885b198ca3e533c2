"""How well a value model finds the first wrong step of a solution, as ProcessBench measures it (arXiv:2412.06559).

A file of its format is a JSON array, or one JSON object per line: `problem`, `steps` (texts), `final_answer_correct`, and
`label`, the index of the first wrong step or -1. The model scores the solution up to each step; the first step that it
scores below a threshold is its answer, and that none is wrong if there is no such step.

What this file does not cover: critics that write their verdict as text.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from rstar.config import require
from rstar.errors import BackendError, ProblemError
from rstar.prompts import Encode, PromptFormat, RenderChat, render_prompt
from rstar.protocols import ScoreRequest, ValueBackend
from rstar.seeds import rng

NO_ERROR = -1
"""Label of a solution without a wrong step."""
SEPARATOR = "\n\n"
"""Between steps; ProcessBench's solutions were split there."""
CALIBRATION_SHARE = 0.5
"""Of the rows, for the choice of a threshold where none is given. [ours: the paper takes one subset for all others]"""
ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A solution whose first wrong step is known."""

    id: str
    problem: str
    steps: tuple[str, ...]
    final_answer_correct: bool
    label: int
    """Index of the first wrong step from 0, or `NO_ERROR`. A right final answer may come out of wrong steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessBenchResult:
    """Rates in [0, 1], over the rows that did not choose the threshold."""

    num_erroneous: int
    num_correct: int
    accuracy_erroneous: float
    """Rows with a wrong step of which that very step was found."""
    accuracy_correct: float
    """Rows without one of which nothing was said to be wrong."""
    threshold: float
    num_calibration: int
    """Rows on which the threshold was chosen; 0: it was given."""

    @property
    def f1(self) -> float:
        """The harmonic mean of the two accuracies, the benchmark's figure."""
        both = self.accuracy_erroneous + self.accuracy_correct
        return 2 * self.accuracy_erroneous * self.accuracy_correct / both if both else 0.0


def read_processbench(path: Path) -> list[Row]:
    """The rows of a `.json` or `.jsonl` file. Raises ProblemError naming file, row (from 1) and field."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ProblemError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise ProblemError(f"{path}: {error.strerror or error}") from None
    if path.suffix == ".jsonl":
        numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        rows = [_row(_parsed(line, f"{path}:{number}"), f"{path}:{number}") for number, line in numbered]
    else:
        values = _parsed(text, str(path))
        if not isinstance(values, list):
            raise ProblemError(
                f"{path}: must hold one JSON array; a file with one object a line ends in .jsonl"
            )
        rows = [_row(value, f"{path}: row {number}") for number, value in enumerate(values, 1)]
    if not rows:
        raise ProblemError(f"{path}: holds no rows")
    return rows


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ProblemError(f"{where}: is not JSON: {error}") from None


def _row(value: Any, where: str) -> Row:
    def field(name: str, kind: type, expected: str) -> Any:
        if name not in value:
            raise ProblemError(f"{where}: {name}: is missing; it must be {expected}")
        found = value[name]
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise ProblemError(f"{where}: {name}: is {_short(found)}; it must be {expected}")
        return found

    if not isinstance(value, dict):
        raise ProblemError(f"{where}: is {_short(value)}; it must be an object")
    problem = field("problem", str, "text")
    steps = field("steps", list, "a list of texts")
    if not steps:
        raise ProblemError(f"{where}: steps: is empty; a solution has a step")
    for index, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise ProblemError(f"{where}: steps: step {index} is {_short(step)}; it must be text")
    label = field("label", int, "a whole number")
    if not NO_ERROR <= label < len(steps):
        raise ProblemError(
            f"{where}: label: is {label}; it must be {NO_ERROR} or the index of one of the {len(steps)} steps"
        )
    return Row(
        id=str(value.get("id", where)), problem=problem, steps=tuple(steps), label=label,
        final_answer_correct=field("final_answer_correct", bool, "true or false"),
    )  # fmt: skip


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


async def score_steps(
    rows: Sequence[Row],
    value: ValueBackend,
    *,
    format: PromptFormat,
    encode: Encode,
    render_chat: RenderChat | None = None,
) -> list[list[float]]:
    """The score of each step of each row, given the problem and the steps before it.

    The prompt is that of a search in `format`. Raises BackendError, naming row and step, if the model cannot answer.
    """

    separator = tuple(encode(SEPARATOR))

    async def score(row: Row) -> list[float]:
        text = render_prompt(format, row.problem, render_chat)
        ids = tuple(encode(text))
        asked = []
        for index, step in enumerate(row.steps):
            step_ids = tuple(encode(step))
            request = ScoreRequest(
                prefix_text=text, prefix_ids=ids, step_texts=(step,), step_ids=(step_ids,), group=row.id
            )
            asked.append(ask(request, f"{row.id}, step {index}"))
            text, ids = text + step + SEPARATOR, ids + step_ids + separator
        return await asyncio.gather(*asked)

    async def ask(request: ScoreRequest, where: str) -> float:
        try:
            (found,) = await value.score(request)
        except BackendError as error:
            raise BackendError(f"{where}: {error}") from None
        return found

    scores: list[list[float]] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        scores += await asyncio.gather(*map(score, rows[start : start + ROWS_AT_ONCE]))
    return scores


async def evaluate_model(
    data: Path, model: Path, *, format: PromptFormat, threshold: float | None = None, seed: int = 0
) -> ProcessBenchResult:
    """A file of the format and the folder of a preference model to the benchmark's figures."""
    from ppm.scorer import PPMScorer
    from rstar.backends.loading import read_tokenizer

    rows = read_processbench(data)
    encode = partial(read_tokenizer(model).encode, add_special_tokens=False)
    scorer = PPMScorer(model)
    try:
        scores = await score_steps(rows, scorer, format=format, encode=encode)
    finally:
        await scorer.aclose()
    return evaluate(rows, scores, threshold=threshold, seed=seed)


def first_wrong(scores: Sequence[float], threshold: float) -> int:
    """Index of the first step scored below the threshold, or `NO_ERROR`."""
    return next((index for index, score in enumerate(scores) if score < threshold), NO_ERROR)


def evaluate(
    rows: Sequence[Row],
    scores: Sequence[Sequence[float]],
    *,
    threshold: float | None = None,
    calibration_share: float = CALIBRATION_SHARE,
    seed: int = 0,
) -> ProcessBenchResult:
    """The benchmark's figures. Without a `threshold`, the one with the highest F1 on a seeded `calibration_share` of the
    rows, whose other rows are then evaluated.

    Raises ProblemError where there are not both solutions with and without a wrong step.
    """
    require(0 < calibration_share < 1, "calibration_share", calibration_share, "between 0 and 1")
    assert [len(row.steps) for row in rows] == [len(of_row) for of_row in scores], "a score per step"
    labelled = [(row.label, of_row) for row, of_row in zip(rows, scores, strict=True)]
    chosen_on = 0
    if threshold is None:
        chosen_on = round(calibration_share * len(labelled))
        shuffled = rng(seed, "processbench").sample(labelled, len(labelled))
        calibration, labelled = shuffled[:chosen_on], shuffled[chosen_on:]
        threshold = best_threshold(calibration)
    return _result(labelled, threshold, chosen_on)


def _result(labelled: Sequence[tuple[int, Sequence[float]]], threshold: float, chosen_on: int) -> ProcessBenchResult:  # fmt: skip
    num_correct = sum(label == NO_ERROR for label, _ in labelled)
    num_erroneous = len(labelled) - num_correct
    if not num_correct or not num_erroneous:
        raise ProblemError(
            f"of {len(labelled)} solutions {num_erroneous} have a wrong step; ProcessBench's figure needs both kinds"
        )
    found = [label for label, scores in labelled if first_wrong(scores, threshold) == label]
    found_correct = sum(label == NO_ERROR for label in found)
    return ProcessBenchResult(
        num_erroneous=num_erroneous,
        num_correct=num_correct,
        accuracy_erroneous=(len(found) - found_correct) / num_erroneous,
        accuracy_correct=found_correct / num_correct,
        threshold=threshold,
        num_calibration=chosen_on,
    )


def best_threshold(labelled: Sequence[tuple[int, Sequence[float]]]) -> float:
    """The threshold with the highest F1 over (label, scores), half-way between two scores; the lowest of equal ones.

    Raises ProblemError where there are not both kinds of solution.
    """
    ends = sorted({score for _, scores in labelled for score in scores})
    middles = [(low + high) / 2 for low, high in pairwise(ends)]
    candidates = [ends[0], *middles, math.nextafter(ends[-1], math.inf)] if ends else [0.0]
    return max(candidates, key=lambda threshold: _result(labelled, threshold, 0).f1)
