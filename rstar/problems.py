"""Problems: questions with reference answers, read from and written to JSONL, JSON and Parquet.

A file of any of the field's usual layouts is read as it is: `FIELD_ALIASES` lists the names that are understood.
Where a file has worked solutions and no answers, a solution's final answer is the problem's (`rstar.solutions`).
Ids identify a problem, never texts: equal questions are kept and reported. What this file does not cover: how a file is taken
apart into rows (`problem_rows`).
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from rstar.errors import ProblemError
from rstar.problem_rows import Literal, Unreadable, rows_of
from rstar.solutions import final_answer

FIELD_ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "problem_id", "unique_id", "index", "idx"),
    "question": ("question", "problem", "query"),
    "answer": ("answer", "reference_answer", "gt", "ground_truth", "final_answer", "expected_answer"),
    "level": ("level", "difficulty"),
    "source": ("source", "data_source", "dataset"),
}
"""For each field of a `Problem` the names it may have in a file; the first that is there and not null counts."""

SOLUTIONS = ("solution", "response", "output")
"""Names that a worked solution may have, which is read for its final answer where a row has no answer."""

_COLUMNS = frozenset(name for names in (*FIELD_ALIASES.values(), SOLUTIONS) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with its reference answer; `answer` is empty where the file has none (inference, ProcessBench)."""

    id: str
    question: str
    answer: str
    level: str = ""
    source: str = ""


class OnError(StrEnum):
    """What a malformed row does to the reading of its file."""

    STOP = "stop"
    """The first one raises ProblemError."""
    KEEP = "keep"
    """It becomes a `Fault`, and the other rows are kept."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row. `line` counts from 1: the line where the row starts, in Parquet the row; 0 is the
    whole file. `field` is empty where the row as a whole is meant."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The problems of a file in its order. `faults`: rows left out (always empty under `OnError.STOP`).
    `notices`: rows that were kept although their answer is missing or their question was asked before."""

    problems: tuple[Problem, ...]
    faults: tuple[Fault, ...] = ()
    notices: tuple[Fault, ...] = ()


def normalised_question(text: str) -> str:
    """The question without what a reader would not notice: Unicode form (NFKC), case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_problems(path: str | os.PathLike[str], *, on_error: OnError = OnError.STOP) -> ProblemSet:
    """Read a `.jsonl`, `.ndjson`, `.json` (one array) or `.parquet` file; text is UTF-8, with or without a BOM.

    Ids: a text id is kept; a whole number n (as `index` and `idx` have) becomes `<file stem>-<n>`; without one, n is
    the row's position from 0. `source` defaults to the file's stem. Numeric answers keep their digits as written.

    Raises ProblemError if the file cannot be read at all, or holds no problem; under STOP also for the first
    malformed row: not JSON, not an object, no question, a field of another type, an id that came before.
    """
    path = Path(path)
    reader = _Reader(path, on_error)
    for line, row in rows_of(path, columns=_COLUMNS):
        reader.add(line, row)
    if not reader.problems and not reader.faults:
        raise ProblemError(f"{path}: holds no problems")
    return ProblemSet(tuple(reader.problems), tuple(reader.faults), tuple(reader.notices))


def read_rows(
    rows: Iterable[Mapping[str, Any]], *, name: str, on_error: OnError = OnError.STOP
) -> ProblemSet:
    """As `read_problems`, from rows that are at hand; `name` stands for the file in ids, sources and messages."""
    reader = _Reader(Path(name), on_error)
    for number, row in enumerate(rows, start=1):
        reader.add(number, dict(row))
    if not reader.problems and not reader.faults:
        raise ProblemError(f"{name}: holds no problems")
    return ProblemSet(tuple(reader.problems), tuple(reader.faults), tuple(reader.notices))


def read_row(row: object, position: int, *, path: Path, line: int) -> Problem:
    """The problem of one row as `read_problems` reads it, where the row holds more than a problem. `position` counts rows
    from 0, `line` lines from 1. Raises ProblemError if it is malformed."""
    reader = _Reader(path, OnError.STOP)
    reader.skip(position)
    reader.add(line, row)
    (problem,) = reader.problems
    return problem


def write_problems(path: str | os.PathLike[str], problems: Iterable[Problem]) -> None:
    """Write `.jsonl` or `.parquet`, all fields of `Problem` as text; `read_problems` gives the same problems back.

    The file appears whole or not at all. Raises ProblemError for two problems of one id, an empty question, text
    that is not Unicode (lone surrogates) and other suffixes.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ProblemError(f"{path}: problems are written as .jsonl or .parquet, not {path.suffix!r}")
    rows = [{field.name: getattr(problem, field.name) for field in fields(Problem)} for problem in problems]
    ids: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if row["id"] in ids:
            raise ProblemError(f"{path}:{number}: id: {row['id']!r} came before")
        ids.add(row["id"])
        for field, value in row.items():
            if (at := _surrogate_at(value)) is not None:
                raise ProblemError(
                    f"{path}:{number}: {field}: is not Unicode text: a lone surrogate at character {at}"
                )
        if not row["question"].strip():
            raise ProblemError(f"{path}:{number}: question: is empty")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            schema = pyarrow.schema([(field.name, pyarrow.string()) for field in fields(Problem)])
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
        else:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.replace(path)
    except OSError as error:
        raise ProblemError(f"{path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


class _BadRowError(Exception):
    """A row that cannot become a problem: the field and the message."""


class _Reader:
    """Turns the rows of one file into problems and keeps the books."""

    def __init__(self, path: Path, on_error: OnError) -> None:
        self.path = path
        self.on_error = on_error
        self.problems: list[Problem] = []
        self.faults: list[Fault] = []
        self.notices: list[Fault] = []
        self._rows = 0
        self._line_by_id: dict[str, int] = {}
        self._line_by_question: dict[str, int] = {}

    def skip(self, num_rows: int) -> None:
        """Count rows that are not read."""
        self._rows += num_rows

    def fault(self, line: int, field: str, message: str) -> None:
        fault = Fault(str(self.path), line, field, message)
        if self.on_error is OnError.STOP:
            raise ProblemError(str(fault))
        self.faults.append(fault)

    def add(self, line: int, row: object) -> None:
        if isinstance(row, Unreadable):
            self._rows += row.is_row
            self.fault(line, "", row.message)
            return
        position = self._rows
        self._rows += 1
        try:
            problem = self._problem(position, row)
            if (before := self._line_by_id.get(problem.id)) is not None:
                raise _BadRowError("id", f"{problem.id!r} came before, in line {before}; ids must differ")
        except _BadRowError as error:
            self.fault(line, *error.args)
            return
        self.problems.append(problem)
        self._line_by_id[problem.id] = line
        if not problem.answer:
            self.notices.append(Fault(str(self.path), line, "answer", f"problem {problem.id!r} has none"))
        first = self._line_by_question.setdefault(normalised_question(problem.question), line)
        if first != line:
            message = f"problem {problem.id!r} asks the same as line {first}; both are kept"
            self.notices.append(Fault(str(self.path), line, "question", message))

    def _problem(self, position: int, row: object) -> Problem:
        if not isinstance(row, dict):
            raise _BadRowError("", f"expected an object with a question, not {_kind(row)}")
        question = _text(row, "question")
        if question is None:
            raise _BadRowError("question", f"is missing; it may be called {_names('question')}")
        if not question.strip():
            raise _BadRowError("question", "is empty")
        name, identifier = _value(row, "id")
        id_text = _text(row, "id")
        if id_text is None or not id_text.strip():
            id_text = f"{self.path.stem}-{position}"
        elif isinstance(identifier, Literal | int):
            if not re.fullmatch(r"-?\d+", id_text):
                raise _BadRowError(name, f"must be text or a whole number, not {id_text}")
            id_text = f"{self.path.stem}-{id_text}"
        source = _text(row, "source")
        return Problem(
            id=id_text,
            question=question,
            answer=_answer(row),
            level=_text(row, "level") or "",
            source=self.path.stem if source is None else source,
        )


def _answer(row: dict[str, Any]) -> str:
    """The row's answer, of a worked solution its last line (GSM8K's `#### 18`); else that of its solution; else empty."""
    given = _text(row, "answer")
    if given:
        return (final_answer(given) or given if "####" in given else given).strip()
    name = next((name for name in SOLUTIONS if type(row.get(name)) is str), "")
    answer = final_answer(row[name]) or "" if name else ""
    if (at := _surrogate_at(answer)) is not None:
        raise _BadRowError(
            name, f"has an answer that is not Unicode text: a lone surrogate at character {at}"
        )
    return answer


def _names(field: str) -> str:
    return ", ".join(FIELD_ALIASES[field])


def _value(row: dict[str, Any], field: str) -> tuple[str, Any]:
    """The alias that is there and its value; the field's own name and None if there is none."""
    return next(
        ((name, row[name]) for name in FIELD_ALIASES[field] if row.get(name) is not None), (field, None)
    )


def _text(row: dict[str, Any], field: str) -> str | None:
    """The value of a field as text, None if it is missing. A question must be text; the others may be numbers."""
    name, value = _value(row, field)
    if value is None:
        return None
    numeric = isinstance(value, Literal | int | float | Decimal) and not isinstance(value, bool)
    if not (numeric and field != "question") and (not isinstance(value, str) or isinstance(value, Literal)):
        expected = "text" if field == "question" else "text or a number"
        raise _BadRowError(name, f"must be {expected}, not {_kind(value)}")
    text = repr(value) if isinstance(value, float) else str(value)
    if (at := _surrogate_at(text)) is not None:
        raise _BadRowError(name, f"is not Unicode text: a lone surrogate at character {at}")
    return text


def _surrogate_at(text: str) -> int | None:
    """The position (from 1) of the first lone surrogate, which JSON can hold and no file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start + 1
    return None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a truth value"
    names = {str: "text", list: "an array", dict: "an object", type(None): "null", Literal: "a number"}
    return names.get(type(value), type(value).__name__)
