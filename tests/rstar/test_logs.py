"""Events become JSON lines in a file and lines on stderr, once each; other programs' logging is left alone."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rstar import logs
from rstar.errors import ConfigError
from rstar.logs import LogLevel, on_stderr, write_to

events = logs.events("rstar.tests")


def written(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_json_line_with_time_level_module_name_and_fields(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "log.jsonl"
    with write_to(file):
        events.info("stage begun", stage="round1/search", seconds=1.5, path=tmp_path, text="a\nb")
    (line,) = written(file)
    assert datetime.fromisoformat(line.pop("time")).tzinfo == UTC
    assert line == {
        "level": "info", "module": "rstar.tests", "event": "stage begun", "stage": "round1/search", "seconds": 1.5,
        "path": str(tmp_path), "text": "a\nb",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "expected"), [("info", ["begun", "wrong"]), ("warning", ["wrong"]), ("error", [])]
)
def test_the_level_decides_what_is_written(tmp_path: Path, level: str, expected: list[str]) -> None:
    with write_to(tmp_path / "log", LogLevel(level)):
        events.info("begun")
        events.warning("wrong")
    assert [line["event"] for line in written(tmp_path / "log")] == expected


def test_warnings_appear_on_stderr_unless_people_have_been_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with on_stderr(), write_to(tmp_path / "log", LogLevel.ERROR):
        events.info("server back")
        events.warning("server away", server="http://x", waits_s=600)
        events.warning("tree parked", said=True, tree="p#0")
    assert capsys.readouterr().err == "warning: server away, server http://x, waits_s 600\n"


def test_a_log_goes_on_at_its_end_and_nothing_is_left_behind(tmp_path: Path) -> None:
    root = logging.getLogger("rstar")
    before = (root.level, list(root.handlers))
    for number in range(2):
        with write_to(tmp_path / "log"):
            events.info("begun", number=number)
    events.info("unseen")
    assert [line["number"] for line in written(tmp_path / "log")] == [0, 1]
    assert (root.level, list(root.handlers)) == before


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"^--log .*file/log: cannot be written"),
        write_to(tmp_path / "file" / "log"),
    ):
        pass


def test_without_a_log_events_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    events.warning("unheard")
    assert capsys.readouterr().err == ""
