"""`rstar view` writes a page of the trees that were asked for, and says what is wrong in one line."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import pytest

from rounds.cli import main
from rstar.cli import WRONG
from rstar.store import Store
from tests.rstar.trees import grow

PROBLEM = grow(seed=3).problem_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One problem's trees of rounds 1 and 2, in round 2 two of them."""
    folder = tmp_path_factory.mktemp("trees") / "store"
    for round_index, indices in ((1, [0]), (2, [0, 1])):
        with Store.create(folder).writer(round=round_index) as writer:
            for index in indices:
                tree = grow(seed=3, num_rollouts=round_index + 1)
                tree.tree_index = index
                writer.append(tree)
    return folder


def view(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["rstar", "view", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    streams = capsys.readouterr()
    return code, streams.out.strip(), streams.err


def test_the_last_round_is_written_and_opened(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    code, out, _ = view(monkeypatch, capsys, store, "--problem", PROBLEM)
    assert code == 0
    assert opened == [Path(out).as_uri()]
    assert '"label":"round 2, tree 0"' in Path(out).read_text("utf-8")


def test_two_trees_are_put_side_by_side(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("no browser was asked for"))
    page = tmp_path / "two.html"
    code, out, _ = view(
        monkeypatch, capsys, store, "--problem", PROBLEM, "--round", 1, "--with", "2:1", "--out", page, "--no-open"
    )  # fmt: skip
    assert (code, out) == (0, str(page))
    text = page.read_text("utf-8")
    assert text.index('"label":"round 1, tree 0"') < text.index('"label":"round 2, tree 1"')


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--problem", "none"], "has no tree none#0"),
        (["--problem", PROBLEM, "--round", 7], "of round 7"),
        (["--problem", PROBLEM, "--with", "last"], "must be ROUND or ROUND:INDEX"),
        (["--problem", PROBLEM, "--with", "2:0"], "the tree itself"),
        (["--problem", PROBLEM, "--with", "1:1"], f"{PROBLEM}#1 of round 1"),
        (["--problem", PROBLEM, "--out", "/dev/null/x.html"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    said: str,
) -> None:
    code, _, err = view(monkeypatch, capsys, store, *arguments, "--no-open")
    assert code == WRONG
    assert said in err
    assert len(err.strip().splitlines()) == 1
