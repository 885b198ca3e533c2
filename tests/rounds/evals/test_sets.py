"""Problem sets by name, by file, and what is said of names and files that are none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rounds.evals.sets import EMBEDDED_COUNTS, SETS, load_set
from rstar.errors import ConfigError, ProblemError


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_embedded_set_is_the_evaluation_split_of_the_curriculum() -> None:
    found = load_set("embedded", data=None, limit=None, seed=0)
    assert Counter(problem.level for problem in found.problems) == Counter(EMBEDDED_COUNTS)
    assert all(problem.id.startswith("eval-") for problem in found.problems)


def test_a_limit_is_spread_over_the_levels() -> None:
    found = load_set("embedded", data=None, limit=7, seed=0)
    assert sorted(Counter(problem.level for problem in found.problems).values()) == [2, 2, 3]


@pytest.mark.parametrize("name", [name for name in SETS if name != "aime-2025"])
def test_named_sets_are_read_from_a_folder_that_has_them(name: str, data_dir: Path) -> None:
    found = load_set(name, data=data_dir, limit=5, seed=0)
    assert len(found.problems) == 5
    assert found.title == SETS[name].title
    assert found.origin.startswith(str(data_dir))


def test_any_file_is_a_set(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    found = load_set(str(file), data=None, limit=None, seed=0)
    assert (found.name, found.title, len(found.problems)) == ("mine", "mine", 1)


def test_what_is_no_set_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no problem set 'math500'; did you mean math-500\?"):
        load_set("math500", data=None, limit=None, seed=0)
    with pytest.raises(ConfigError, match=r"--data .*nowhere is no folder"):
        load_set("gsm8k", data=tmp_path / "nowhere", limit=None, seed=0)
    file = write(
        tmp_path / "open.jsonl",
        [{"id": "a", "question": "1 + 1?"}, {"id": "b", "question": "2?", "answer": "2"}],
    )
    found = load_set(str(file), data=None, limit=None, seed=0)
    assert [problem.id for problem in found.problems] == ["b"]
    assert found.origin == f"{file} (1 without an answer left out)"
    with pytest.raises(ProblemError, match="no problem has an answer"):
        load_set(str(write(tmp_path / "none.jsonl", [{"question": "1 + 1?"}])), data=None, limit=None, seed=0)
