"""Every command on stores that the documentation shows does what it says, on a run of its shape."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks.forest import grow_tree
from policy.config import SFTSetConfig
from policy.sft_sets import sft_set
from policy.sft_table import to_table
from rounds.cli import main
from rstar.problems import Problem
from rstar.prompts import BARE
from rstar.store import Kind, Store
from tests.rstar.rstar_math_search import searched

PAGE = Path(__file__).resolve().parents[2] / "docs" / "store.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if "rstar store" in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/embedded, two rounds of it, and a file of rStar-Math's."""
    folder = tmp_path_factory.mktemp("place")
    for round in (1, 2):
        trees = [grow_tree(f"p{number}", round, num_rollouts=10) for number in range(3)]
        store = Store.create(folder / f"runs/embedded/round{round}/search/store")
        with store.writer(round=round) as writer:
            for tree in trees:
                writer.append(tree, level="easy", source="curriculum")
        problems = [Problem(id=tree.problem_id, question=tree.question, answer="") for tree in trees]
        examples = sft_set(
            trees, problems, config=SFTSetConfig(), format=BARE, encode=lambda text: [ord(c) for c in text],
            max_output_chars=2000, seed=0,
        ).examples  # fmt: skip
        with Store.create(folder / f"runs/embedded/round{round}/sft_set/store").writer(round=round) as writer:
            writer.write_table(Kind.SFT, to_table(examples))
    (folder / "rstar_math.jsonl").write_text(json.dumps(searched(1, scored=False)) + "\n")
    return folder


def test_the_page_shows_every_command() -> None:
    shown = {re.findall(r"rstar store (\w+)", line)[0] for line in COMMANDS}
    assert shown == {"summary", "trees", "validate", "compact", "diff", "sql", "export", "import"}


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_works(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = shlex.split(line, comments=True)
    if words[0] == "echo":
        monkeypatch.setattr(sys, "stdin", io.StringIO(words[1]))
        words = words[words.index("|") + 1 :]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    streams = capsys.readouterr()
    assert not ended.value.code, streams.err
    assert streams.out or "validate" in words
    if "--out" in words:
        assert (place / words[words.index("--out") + 1]).stat().st_size > 0
