"""Every command does what its help says, and ten kinds of bad input each give one line and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rounds.cli import main
from rstar.cli import INTERRUPTED, WRONG
from rstar.problems import Problem, write_problems
from rstar.store import Store
from rstar.tree import Tree
from tests.rstar.trees import grow

Capture = pytest.CaptureFixture[str]


def rstar(capsys: Capture, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["rstar", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two trees of round 1: one solved, one empty."""
    folder = tmp_path / "store"
    with Store.create(folder).writer(round=1) as writer:
        writer.append(grow(seed=3), level="easy")
        writer.append(Tree(problem_id="empty", question="nothing?"))
    return folder


def test_help_names_every_command(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = rstar(capsys, monkeypatch, "--help")
    assert code == 0
    for command in ("doctor", "problems", "grade", "search", "tree", "store", "round"):
        assert command in out


def test_doctor_shows_the_sandboxs_layers(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = rstar(capsys, monkeypatch, "doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["sandbox_fault"] == ""
    assert {layer["state"] for layer in found["sandbox"]} <= {"held", "missing"}
    assert found["packages"]["torch"]
    code, out, _ = rstar(capsys, monkeypatch, "doctor")
    assert "seccomp" in out


def test_problems_are_counted_and_malformed_rows_listed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "1+1?", "answer": 2, "level": "easy"}\n{"answer": 3}\n')
    code, out, err = rstar(capsys, monkeypatch, "problems", "check", str(file), "--keep")
    assert (code, "easy" in out) == (0, True)
    assert "mine.jsonl" in err
    assert "question" in err
    code, out, _ = rstar(capsys, monkeypatch, "problems", "check", str(file), "--keep", "--json")
    assert json.loads(out)["problems"] == 1
    code, _, err = rstar(capsys, monkeypatch, "problems", "check", str(file))
    assert code == WRONG


@pytest.mark.parametrize(("answer", "code", "word"), [(r"\frac{1}{2}", 0, "equal"), ("50", 1, "not equal")])
def test_grade_says_equal_or_not_and_why(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, word: str
) -> None:
    got, out, _ = rstar(capsys, monkeypatch, "grade", answer, "0.5")
    assert got == code
    assert out.startswith(word)
    got, out, _ = rstar(capsys, monkeypatch, "grade", answer, "0.5", "--json")
    assert json.loads(out)["equal"] is (code == 0)


def test_a_store_is_summed_up_listed_checked_and_compacted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    _, out, _ = rstar(capsys, monkeypatch, "store", "summary", str(store), "--json")
    assert [(row["round"], row["num_trees"]) for row in json.loads(out)] == [(1, 2)]
    _, out, _ = rstar(capsys, monkeypatch, "store", "trees", str(store))
    assert "empty" in out
    assert rstar(capsys, monkeypatch, "store", "validate", str(store))[0] == 0
    assert rstar(capsys, monkeypatch, "store", "compact", str(store))[0] == 0
    part = next((store / "nodes").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    code, out, _ = rstar(capsys, monkeypatch, "store", "validate", str(store))
    assert code == 1
    assert part.name in out


def test_a_tree_is_drawn_and_exported(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    tree = grow(seed=3)
    code, out, _ = rstar(capsys, monkeypatch, "tree", str(store), tree.problem_id)
    assert code == 0
    assert tree.question.split(".")[0] in out
    assert out.count(" N ") == sum(node.live for node in tree.nodes[1:])
    for suffix in ("json", "graphml", "dot"):
        file = tmp_path / f"tree.{suffix}"
        assert rstar(capsys, monkeypatch, "tree", str(store), tree.problem_id, "--out", str(file))[0] == 0
        assert file.stat().st_size > 100


def test_round_show_prints_the_settings_that_a_recipe_file_would_hold(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = rstar(capsys, monkeypatch, "round", "show", "--set", "search.num_rollouts=3", "--json")
    assert code == 0
    assert json.loads(out)["search"]["num_rollouts"] == 3
    assert "num_candidates: 5" in rstar(capsys, monkeypatch, "round", "show", "--round", "1")[1]


def test_round_status_says_what_is_missing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, _ = rstar(capsys, monkeypatch, "round", "status", "--run", str(tmp_path), "--json")
    assert code == 0
    assert {stage["progress"] for stage in json.loads(out)} == {"missing"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["problems", "check", "{tmp}/none.jsonl"], "none.jsonl"),
        (["problems", "check", "{tmp}/table.csv"], "unknown format '.csv'"),
        (["problems", "check", "{tmp}/broken.jsonl"], "broken.jsonl"),
        (["search", "{tmp}/fine.jsonl", "--model", "{tmp}/none", "--store", "{tmp}/s"], "none"),
        (["search", "{tmp}/unanswered.jsonl", "--model", "m", "--store", "{tmp}/s"], "have no answer"),
        (["search", "{tmp}/fine.jsonl", "--model", "m", "--store", "{tmp}/s", "--set", "serach.c=1"], "unknown section serach"),
        (["search", "{tmp}/fine.jsonl", "--model", "m", "--store", "{tmp}/s", "--set", "search.rollouts=1"], "did you mean num_rollouts"),
        (["search", "{tmp}/fine.jsonl", "--model", "m", "--store", "{tmp}/s", "--prompt-format", "x"], "--prompt-format is 'x'"),
        (["search", "{tmp}/fine.jsonl", "--model", "m", "--store", "{tmp}/s", "--ray", "head"], "'head' is no address of a Ray cluster"),
        (["store", "summary", "{tmp}"], "store"),
        (["store", "summary", "{tmp}/none"], "store"),
        (["tree", "{store}", "nobody"], "has no tree nobody#0"),
        (["tree", "{store}", "empty", "--out", "{tmp}/x.png"], ".png"),
        (["tree", "{store}", "empty", "--round", "4"], "of round 4"),
        (["round", "two"], "'two' is no round"),
        (["round", "9"], "there is no round 9"),
        (["round", "1", "--recipe", "embeded"], "did you mean embedded?"),
        (["round", "1", "--set", "search.num_rollouts=x"], "search.num_rollouts is 'x'"),
        (["round", "1", "--set", "base={tmp}/none"], "no model at"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    store: Path,
    arguments: list[str],
    line: str,
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"question": \n')
    (tmp_path / "table.csv").write_text("a,b\n")
    write_problems(tmp_path / "fine.jsonl", [Problem(id="1", question="1+1?", answer="2")])
    write_problems(tmp_path / "unanswered.jsonl", [Problem(id="1", question="1+1?", answer="")])
    filled = [argument.format(tmp=tmp_path, store=store) for argument in arguments]
    code, _, err = rstar(capsys, monkeypatch, *filled)
    assert code == WRONG
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1, "one line"


def test_ctrl_c_says_that_nothing_is_lost(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rounds.recipe.load_rounds", interrupted)
    code, _, err = rstar(capsys, monkeypatch, "round", "status")
    assert code == INTERRUPTED
    assert "goes on from there" in err


def test_the_installed_command_starts_without_loading_models() -> None:
    program = (
        "import sys; sys.argv = ['rstar', '--help']; from rounds.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'sympy', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
