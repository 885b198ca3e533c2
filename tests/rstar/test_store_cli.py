"""The commands on stores: their tables, their JSON, their exit codes."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from benchmarks.forest import grow_tree
from rstar.cli import WRONG
from rstar.store import Kind, Store
from tests.rstar.rstar_math_search import searched
from tests.rstar.test_cli import Capture, rstar


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two rounds; a tree of the first was searched on."""
    folder = tmp_path / "store"
    for round, skill in ((1, 0.0), (1, 1.0), (2, 1.0)):
        with Store.create(folder).writer(round=round) as writer:
            writer.append(grow_tree("p", round, num_rollouts=3, skill=skill), level="easy", source="here")
    return folder


def test_help_names_every_command_and_each_has_an_example_or_a_sentence(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = rstar(capsys, monkeypatch, "store", "--help")
    assert code == 0
    for command in ("summary", "trees", "validate", "compact", "sql", "diff", "export", "import"):
        assert command in out
        code, own, _ = rstar(capsys, monkeypatch, "store", command, "--help")
        assert code == 0
        assert "--json" in own


def test_sql_prints_a_table_json_or_csv(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    query = "select problem_id, round, num_nodes, outcome = 'solved' as solved, 'nan'::float as x from trees order by round"
    sizes = [len(tree.nodes) for tree in sorted(Store(store).trees(), key=lambda t: t.seed)]
    _, out, err = rstar(capsys, monkeypatch, "store", "sql", str(store), query)
    assert "problem id" in out
    assert err == "2 rows\n"
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store), query, "--json")
    assert json.loads(out) == [
        {"problem_id": "p", "round": round, "num_nodes": size, "solved": True, "x": None}
        for round, size in zip((1, 2), sizes, strict=True)
    ]
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store), query, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["round"], int(row["num_nodes"]), row["solved"]) for row in rows] == [
        ("1", sizes[0], "True"),
        ("2", sizes[1], "True"),
    ]


def test_sql_reads_a_query_from_a_pipe_and_lists_the_views_without_one(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("select count(*) as n from trees"))
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store), "-", "--json")
    assert json.loads(out) == [{"n": 2}]
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store))
    assert "q_value" in out
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store), "--json")
    assert list(json.loads(out)) == list(Kind)


def test_a_long_result_is_cut_in_a_table_and_whole_otherwise(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    query = "select * from range(25000)"
    _, out, err = rstar(capsys, monkeypatch, "store", "sql", str(store), query)
    assert out.count("\n") == 201
    assert err == "25,000 rows, 24,800 not shown: --csv or --json has all\n"
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store), query, "--csv")
    assert out.count("\n") == 25_001


def test_values_of_every_type_are_json(capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    query = (
        "select [1, 2] as l, {'a': 0.5} as s, 1.50::decimal(4,2) as d, 2::decimal(4,2) as i, date '2026-01-02' as t, "
        "null as n, 'x'::blob as b, map {'k': 'inf'::double} as m"
    )
    _, out, _ = rstar(capsys, monkeypatch, "store", "sql", str(store), query, "--json")
    assert json.loads(out) == [
        {
            "l": [1, 2],
            "s": {"a": 0.5},
            "d": 1.5,
            "i": 2,
            "t": "2026-01-02",
            "n": None,
            "b": "b'x'",
            "m": {"k": None},
        }
    ]


def test_diff_names_problems_and_compares_costs(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    code, out, _ = rstar(capsys, monkeypatch, "store", "diff", f"{store}:1", f"{store}:2")
    assert code == 0
    for word in (
        "solved",
        "level easy",
        "tokens",
        "ended: answered",
        "mean Q of right answers",
        "newly solved",
    ):
        assert word in out
    _, out, _ = rstar(capsys, monkeypatch, "store", "diff", f"{store}:1", f"{store}:2", "--json")
    found = json.loads(out)
    assert (found["a"]["round"], found["b"]["round"], found["newly_solved"]) == (1, 2, [])


def test_validate_says_what_is_sound_and_what_to_do_about_what_is_not(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    code, out, err = rstar(capsys, monkeypatch, "store", "validate", str(store))
    assert (code, out, err) == (0, "", "the store is sound: 2 trees\n")
    assert rstar(capsys, monkeypatch, "store", "validate", str(store), "--json")[:2] == (0, "[]\n")
    part = next((store / "nodes").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    (store / "trees" / "notes.txt").write_text("mine")
    code, out, err = rstar(capsys, monkeypatch, "store", "validate", str(store))
    assert code == 1
    assert part.name in out
    assert "what to do: move the parts of that number away" in out
    assert "what to do: move the file out of the store" in out
    assert err == "2 faults\n"
    code, out, _ = rstar(capsys, monkeypatch, "store", "validate", str(store), "--json")
    assert code == 1
    assert {fault["file"].rpartition("/")[2] for fault in json.loads(out)} == {part.name, "notes.txt"}


def test_what_validate_advises_makes_the_store_sound_again(store: Path) -> None:
    part = next((store / "nodes" / "round=1").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    assert Store(store).validate()
    for kind in ("nodes", "trajectories", "trees"):
        (store / kind / "round=1" / part.name).unlink()
    assert Store(store).validate() == []
    assert len(Store(store).records()) in (1, 2)


def test_compact_reports_what_it_did(capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    trees = list(Store(store).trees())
    code, out, _ = rstar(capsys, monkeypatch, "store", "compact", str(store))
    assert code == 0
    assert out.startswith("9 files, ")
    assert "1 superseded trees are gone" in out
    assert list(Store(store).trees()) == trees
    _, out, _ = rstar(capsys, monkeypatch, "store", "compact", str(store), "--json")
    assert json.loads(out)["num_versions_dropped"] == 0


def test_import_reports_what_came_and_what_was_left_out(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "math.jsonl"
    file.write_text(json.dumps(searched(1, scored=False)) + '\n{"question": "?"}\n')
    arguments = ("store", "import", str(file), "--store", str(tmp_path / "s"), "--round", "2")
    code, _, err = rstar(capsys, monkeypatch, *arguments)
    assert code == WRONG
    assert err.startswith("error: ")
    assert "math.jsonl:2: rstar: must be an object" in err
    code, out, err = rstar(capsys, monkeypatch, *arguments, "--skip", "--json")
    assert code == 1, "a row was left out"
    assert json.loads(out)["num_trees"] == 1
    assert "math.jsonl:2: rstar" in err
    assert Store(tmp_path / "s").records()[0].round == 2
    file.write_text(json.dumps(searched(2, scored=True)) + "\n")
    code, out, _ = rstar(capsys, monkeypatch, *arguments[:-1], "3")
    assert code == 0
    assert "judged otherwise" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["sql", "{store}", "select 1 form x"],
            'error: SQL, line 1, character 15: syntax error at or near "x"',
        ),
        (["sql", "{store}", "select 1", "--json", "--csv"], "--json and --csv exclude each other"),
        (["sql", "{store}/none", "select 1"], "is not a store, and holds none"),
        (["diff", "{store}", "{store}:2"], "say which"),
        (["validate", "{store}/nodes"], "is not a store"),
        (["compact", "{store}/nodes"], "is not a store"),
        (["import", "{store}/none.jsonl", "--store", "{store}"], "No such file"),
    ],
)
def test_bad_requests_are_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path, arguments: list[str], line: str
) -> None:
    code, _, err = rstar(capsys, monkeypatch, "store", *[a.format(store=store) for a in arguments])
    assert code == WRONG
    assert line in err
    assert err.count("\n") == 1
