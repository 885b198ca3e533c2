"""Events worth knowing, each with a name and fields: a server away, a replica restarted, a tree parked, a stage done.

They go through the standard `logging`, below the logger `rstar`: `on_stderr` shows the warnings, `write_to` keeps a file of
JSON lines, `rstar.metrics` counts events by name.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from rstar.errors import ConfigError

ROOT = "rstar"
_FIELDS, _SAID = "rstar_fields", "rstar_said"
logging.getLogger(ROOT).addHandler(
    logging.NullHandler()
)  # a program that uses this package decides what it shows


class LogLevel(StrEnum):
    """How much is written."""

    DEBUG = "debug"
    INFO = "info"
    """Stages and searches that begin and end, servers that are back."""
    WARNING = "warning"
    """What went wrong and was mended: retries, restarts, parked trees, missing sandbox layers."""
    ERROR = "error"


class Events:
    """Says what happened in one module."""

    def __init__(self, module: str) -> None:
        self._logger = logging.getLogger(module if module.startswith(ROOT) else f"{ROOT}.{module}")

    def info(self, event: str, /, **fields: Any) -> None:
        """Something that is part of the course of things."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, *, said: bool = False, **fields: Any) -> None:
        """Something that went wrong, and what was done about it. `said`: people have been told already, so not on stderr."""
        self._log(logging.WARNING, event, fields, said=said)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, said: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_FIELDS: fields, _SAID: said})


def events(module: str) -> Events:
    """The events of a module, given its `__name__`."""
    return Events(module)


def name_of(record: logging.LogRecord) -> str:
    """The name of an event; "message" for what other code logged, whose text may be anything."""
    return record.getMessage() if hasattr(record, _FIELDS) else "message"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of an event's record; none of one that other code logged."""
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return fields


class JsonLines(logging.Formatter):
    """One JSON object per event: time (UTC), level, module, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "module": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


class _Stderr(logging.Handler):
    """One line per event, for people who have not been told otherwise. A live display may have replaced stderr meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, _SAID, False):
            fields = "".join(f", {name} {value}" for name, value in fields_of(record).items())
            print(f"{record.levelname.lower()}: {record.getMessage()}{fields}", file=sys.stderr)


@contextmanager
def on_stderr() -> Iterator[None]:
    """While open, warnings are shown on stderr."""
    with _attached(_Stderr(logging.WARNING)):
        yield


@contextmanager
def write_to(file: Path | None, level: LogLevel = LogLevel.INFO) -> Iterator[None]:
    """While open: all events from `level` on are appended to `file` as JSON lines, and from info on counted by metrics.

    Raises ConfigError if the file cannot be written.
    """
    threshold = getattr(logging, level.name)
    root = logging.getLogger(ROOT)
    before = root.level
    root.setLevel(min(threshold, logging.INFO))
    try:
        if file is None:
            yield
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            written = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--log {file}: cannot be written: {error.strerror}") from None
        written.setLevel(threshold)
        written.setFormatter(JsonLines())
        with _attached(written):
            yield
    finally:
        root.setLevel(before)


@contextmanager
def _attached(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger(ROOT)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
