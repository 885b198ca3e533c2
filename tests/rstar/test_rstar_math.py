"""rStar-Math's JSON trees: what is read is what was written, and what is wrong has one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar.errors import ProblemError, StoreError
from rstar.protocols import ExecutionVerdict
from rstar.rstar_math import FAILURES, ImportedTree, MalformedRow, read_trees
from rstar.steps import parse_solution, render_solution
from rstar.store import Outcome, Store
from rstar.store_import import import_files
from rstar.trajectories import trajectories
from rstar.tree import TerminalReason, Tree
from tests.rstar.rstar_math_search import searched

State = dict[str, Any]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> ImportedTree:
    (found,) = read_trees(path)
    assert isinstance(found, ImportedTree), found
    return found


def tags(row: dict[str, Any]) -> list[str]:
    return sorted(row["rstar"], key=lambda tag: (tag.count("."), [int(part) for part in tag.split(".")]))


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), scored=st.booleans())
def test_n_and_q_of_every_node_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scored: bool
) -> None:
    row = searched(seed, scored=scored)
    found = read(write(tmp_path_factory.mktemp("t") / "a.jsonl", row))
    assert (found.num_recounted, found.num_unparsable) == (0, 0)
    for tag, node in zip(tags(row), found.tree.nodes, strict=True):
        state = row["rstar"][tag]
        if state["final_answer"] in FAILURES:
            assert node.visit_count == 0
        else:
            assert node.visit_count == state["visit_count"], tag
            assert node.q_value == pytest.approx(state["q_value"], abs=1e-12), tag
        assert node.depth == tag.count(".")


def test_an_imported_tree_is_sound_judged_and_comes_back_from_its_store(tmp_path: Path) -> None:
    rows = [searched(seed, scored=seed % 2 == 1) for seed in range(12)]
    files = [write(tmp_path / "a.jsonl", *rows[:6]), tmp_path / "b.json"]
    files[1].write_text(json.dumps(rows[6:]))
    store = Store.create(tmp_path / "s")
    report = import_files(files, store, round=3)
    assert store.validate() == []
    trees = {tree.problem_id: tree for tree in store.trees(3)}
    assert set(trees) == {f"a-{n}" for n in range(6)} | {f"b-{n}" for n in range(6, 12)}
    answers = [node for tree in trees.values() for node in tree.nodes if node.terminal]
    assert report.num_trees == 12
    assert report.num_nodes == sum(len(row["rstar"]) for row in rows)
    assert report.num_answers == len(answers) > 10
    assert all(node.verified == (node.answer == "12") for node in answers)
    assert report.num_right == sum(node.verified is True for node in answers) > 0
    assert report.num_judged_otherwise == 0
    assert {record.level for record in store.records()} == {"easy"}
    assert {record.source for record in store.records()} == {"a", "b"}
    assert Outcome.SOLVED in {record.outcome for record in store.records()}


def test_failed_code_is_a_marked_leaf_and_the_program_s_output_is_shown_once(tmp_path: Path) -> None:
    for seed in range(30):
        row = searched(seed, scored=False)
        tree = read(write(tmp_path / "a.jsonl", row)).tree
        failed = [node for node in tree.nodes if not node.live]
        assert all(node.execution is ExecutionVerdict.ERROR and "NameError" in node.error for node in failed)
        for found in trajectories(tree):
            solution = parse_solution(found.text)
            assert solution.output is not None
            assert solution.output.endswith("\n2")
            assert render_solution(solution) == found.text


def test_real_solutions_of_rstar_math_read_back_as_they_were(data_dir: Path, tmp_path: Path) -> None:
    for example in json.loads((data_dir / "rstar_sft_examples.json").read_text("utf-8")):
        solution = parse_solution(example["response"])
        states: dict[str, State] = {"0": _state("", 1)}
        tag = "0"
        for number, step in enumerate(solution.steps):
            tag += ".1"
            text = ("<code>\n" if number == 0 else "\n") + step.text
            if step.kind == "final_code":
                text += f"\n<output>{solution.output}<end_of_output>"
            final = step.answer or ""
            states[tag] = _state(text, 1, final_answer=final)
        row = {"question": example["query"], "answer": "", "rstar": states}
        found = read(write(tmp_path / "a.jsonl", row))
        (trajectory,) = trajectories(found.tree)
        assert parse_solution(trajectory.text).steps == solution.steps
        assert (parse_solution(trajectory.text).output or "").strip() == (solution.output or "").strip()
        assert trajectory.verified is None


def _state(text: str, visits: int, final_answer: str = "", q: float = 1.0) -> State:
    return {"text": text, "final_answer": final_answer, "value": q, "q_value": q, "visit_count": visits}


def small(**changes: State | None) -> dict[str, Any]:
    """One path: a code step, the last code step, a right answer. Changes by tag, with _ for the dots."""
    states: dict[str, Any] = {
        "0": _state("", 1),
        "0.1": _state("<code>\nx = 3\n<end_of_step>", 1),
        "0.1.1": _state("\nprint(4 * x)\n<end_of_code>\n<output>12<end_of_output>", 1),
        "0.1.1.1": _state("\n<answer>\\boxed{12}<end_of_answer>", 1, "12"),
    }
    for name, change in changes.items():
        tag = name.removeprefix("t").replace("_", ".")
        if change is None:
            del states[tag]
        else:
            states[tag] = {**states.get(tag, {}), **change}
    return {"id": "p", "question": "3 * 4?", "answer": "12", "rstar": states}


def test_text_that_is_no_step_keeps_its_value_and_is_not_an_answer(tmp_path: Path) -> None:
    row = small(t0_1_1={"text": "I think it is \\boxed{12}", "final_answer": "12"}, t0_1_1_1=None)
    found = read(write(tmp_path / "a.jsonl", row))
    leaf = found.tree.nodes[-1]
    assert (leaf.terminal, leaf.kind, leaf.q_value) == (TerminalReason.UNPARSABLE, None, 1.0)
    assert "no closing tag" in leaf.error
    assert (found.num_unparsable, found.num_recounted) == (1, 0)
    row = small(
        t0_1={"text": "<code>\n# \\boxed{12}\n<end_of_step>", "final_answer": "12"},
        t0_1_1=None,
        t0_1_1_1=None,
    )
    found = read(write(tmp_path / "a.jsonl", row))
    assert found.tree.nodes[-1].error == "an answer was read from a code step"


def test_visits_that_do_not_add_up_are_counted_anew_and_reported(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.jsonl", small(t0={"visit_count": 3})))
    assert found.num_recounted == 1
    assert [node.visit_count for node in found.tree.nodes] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda row: row.pop("rstar"), "a.jsonl:2: rstar: must be an object of nodes by tag"),
        (lambda row: row.pop("question"), "a.jsonl:2: question: is missing"),
        (lambda row: row.update(rstar={}), "rstar: must be an object of nodes"),
        (lambda row: row["rstar"].pop("0"), "rstar.0: is missing; it is the root"),
        (lambda row: row["rstar"].pop("0.1"), "rstar.0.1.1: its parent 0.1 is missing"),
        (lambda row: row["rstar"].update({"1.2": {}}), "rstar.1.2: is no tag"),
        (lambda row: row["rstar"].update(solutions=[]), "rstar.solutions: a beam search, which counts no visits"),
        (lambda row: row["rstar"].update({"0.1": 3}), "rstar.0.1: must be an object"),
        (lambda row: row["rstar"]["0.1"].pop("visit_count"), "rstar.0.1.visit_count: is missing"),
        (lambda row: row["rstar"]["0.1"].update(visit_count=1.5), "rstar.0.1.visit_count: is 1.5"),
        (lambda row: row["rstar"]["0.1"].update(q_value="high"), "rstar.0.1.q_value: is 'high'; it must be a number"),
        (lambda row: row["rstar"]["0.1"].update(q_value=7), "rstar.0.1.q_value: is 7.0; values must be in [-1, 1]"),
        (lambda row: row["rstar"]["0.1.1"].update(text=None), "rstar.0.1.1.text: is missing"),
        (lambda row: row["rstar"]["0.1.1"].update(text=["a"]), "rstar.0.1.1.text: is ['a']; it must be text"),
        (lambda row: row["rstar"]["0.1"].update(text="x = 1"), "rstar.0.1.text: no closing tag at the end of the step, and steps follow it"),
        (lambda row: row["rstar"]["0.1"].update(final_answer="Too many consecutive steps have code errors."), "rstar.0.1: its code failed for good, and steps follow it"),
        (lambda row: row["rstar"].update({"0.1.1.1.1": _state("x<end_of_step>", 0)}), "rstar.0.1.1.1: it is an answer, and steps follow it"),
    ],
)  # fmt: skip
def test_a_malformed_row_has_one_line_with_file_line_and_field_and_nothing_is_written(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    bad = {**small(), "id": "q"}
    change(bad)
    file = write(tmp_path / "a.jsonl", small(), bad, {**small(), "id": "r"})
    found = list(read_trees(file))
    assert isinstance(found[1], MalformedRow)
    assert line in found[1].message
    assert f"{file}:2: " in found[1].message
    assert "\n" not in found[1].message
    store = Store.create(tmp_path / "s")
    with pytest.raises(StoreError, match=r"a\.jsonl:2: "):
        import_files([file], store, round=0)
    assert store.records() == []
    report = import_files([file], store, round=0, skip_malformed=True)
    assert (report.num_trees, len(report.malformed)) == (2, 1)


def test_a_line_that_is_not_json_is_named_and_a_problem_searched_twice_has_two_trees(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", small(), small())
    store = Store.create(tmp_path / "s")
    import_files([file], store, round=0)
    assert store.keys() == {("p", 0), ("p", 1)}
    with pytest.raises(StoreError, match="has tree p#0 already; import into another --round"):
        import_files([file], store, round=0)
    file.write_text(file.read_text() + '{"question": \n')
    with pytest.raises(StoreError, match=r"a\.jsonl:3: is not JSON"):
        import_files([file], store, round=1)
    with pytest.raises(ProblemError, match="No such file"):
        import_files([tmp_path / "none.jsonl"], store, round=1)
    with pytest.raises(ProblemError, match="are JSON"):
        import_files([tmp_path / "a.parquet"], store, round=1)
    empty = write(tmp_path / "empty.jsonl")
    with pytest.raises(StoreError, match="no tree in"):
        import_files([empty], store, round=1)


def test_a_tree_that_was_never_judged_stays_unjudged(tmp_path: Path) -> None:
    row = {**small(), "answer": ""}
    store = Store.create(tmp_path / "s")
    import_files([write(tmp_path / "a.jsonl", row)], store, round=0)
    tree: Tree = next(store.trees())
    assert tree.nodes[-1].verified is None
