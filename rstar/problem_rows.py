"""A problem file taken apart into rows, each with the line where it starts: JSON lines, a JSON array, Parquet.

Numbers keep their digits as written. What is not JSON becomes an `Unreadable` in place of a row, so that whoever reads on can.
What this file does not cover: what a row means (`problems`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rstar.errors import ProblemError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


class Literal(str):
    """A JSON number as it is written: `37.50` keeps its zero, and 5,000 digits are no integer to be converted."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What cannot be read, and why. `is_row`: it is one row, and counts, so that mending it does not change the positions of
    those after it; otherwise the rest of the file."""

    message: str
    is_row: bool = True


Rows = Iterator[tuple[int, object]]
"""Line (of Parquet, row) from 1, and the row: what JSON makes of it, or an `Unreadable`."""


def rows_of(path: Path, *, columns: Container[str]) -> Rows:
    """The rows of a `.jsonl`, `.ndjson`, `.json` (one array) or `.parquet` file; of the last only the named columns are read.

    Raises ProblemError if the file cannot be read at all.
    """
    if path.suffix not in SUFFIXES:
        raise ProblemError(
            f"{path}: unknown format {path.suffix!r}; problem files end in {', '.join(SUFFIXES)}"
        )
    try:
        yield from _read_parquet(path, columns) if path.suffix == ".parquet" else _read_json_text(path)
    except OSError as error:
        raise ProblemError(f"{path}: {error.strerror or error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=Literal, parse_float=Literal, parse_constant=_no_constant)


def _read_json_text(path: Path) -> Rows:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ProblemError(f"{path}: is UTF-16; problem files are UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    return _read_array(path, data) if path.suffix == ".json" else _read_lines(data)


def _read_lines(data: bytes) -> Rows:
    for number, raw in enumerate(data.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = _DECODER.decode(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield number, Unreadable(f"is not UTF-8 (byte {error.start + 1} of the line)")
        except json.JSONDecodeError as error:
            yield number, Unreadable(f"is not JSON: {error.msg} (character {error.pos + 1} of the line)")
        except ValueError as error:
            yield number, Unreadable(f"is not JSON: {error}")
        except RecursionError:
            yield number, Unreadable("is nested too deeply")
        else:
            yield number, row


_SPACE = re.compile(r"[ \t\r\n]*")


def _read_array(path: Path, data: bytes) -> Rows:
    """Element by element, for their lines. After a syntax error nothing more of an array can be trusted."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = "is not UTF-8; nothing of the array can be read"
        yield data.count(b"\n", 0, error.start) + 1, Unreadable(message, is_row=False)
        return
    position, line = 0, 1

    def skip_space(start: int) -> int:
        match = _SPACE.match(text, start)
        assert match is not None
        return match.end()

    def broken(at: int, message: str) -> tuple[int, Unreadable]:
        rest = f"{message}; the array cannot be read from here on"
        return text.count("\n", 0, at) + 1, Unreadable(rest, is_row=False)

    position = skip_space(0)
    if position == len(text):
        return
    if text[position] != "[":
        raise ProblemError(f"{path}: must hold one JSON array; files with one object a line end in .jsonl")
    counted, position = 0, skip_space(position + 1)
    first = True
    while True:
        if text.startswith("]", position):
            break
        if not first:
            if not text.startswith(",", position):
                yield broken(position, "is not JSON: expected ',' or ']' after an element")
                return
            position = skip_space(position + 1)
        first = False
        line, counted = line + text.count("\n", counted, position), position
        try:
            row, end = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield broken(error.pos, f"is not JSON: {error.msg} (column {error.colno})")
            return
        except ValueError as error:
            yield broken(position, f"is not JSON: {error}")
            return
        except RecursionError:
            yield broken(position, "is nested too deeply")
            return
        yield line, row
        position = skip_space(end)
    if skip_space(position + 1) != len(text):
        yield broken(position + 1, "has text after the array's end")


def _read_parquet(path: Path, columns: Container[str]) -> Rows:
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise FileNotFoundError(2, os.strerror(2))
    try:
        file = parquet.ParquetFile(path)
        wanted = [name for name in file.schema_arrow.names if name in columns]
        row_number = 0
        for batch in file.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                row_number += 1
                yield row_number, row
    except pyarrow.ArrowException as error:
        raise ProblemError(f"{path}: is not a readable Parquet file: {str(error).splitlines()[0]}") from None
