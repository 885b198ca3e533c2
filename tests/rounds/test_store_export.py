"""Files for TRL and verl: what is in them, and that their own trainers and data set class take them as they are."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.forest import grow_tree
from policy.config import SFTSetConfig
from policy.sft_sets import sft_set
from policy.sft_table import to_table as examples_table
from ppm.config import PairConfig
from ppm.pair_table import to_table as pairs_table
from ppm.pairs import pair_set
from rounds.cli import main
from rstar.cli import WRONG
from rstar.config import SearchConfig
from rstar.problems import Problem, write_problems
from rstar.prompts import BARE
from rstar.steps import END_OF_ANSWER, parse_solution
from rstar.store import Kind, Store
from rstar.tree import Tree
from tests.policy.forest import save_tiny_base

Capture = pytest.CaptureFixture[str]
NUM_PROBLEMS = 4


def export(capsys: Capture, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """Run `rstar store export` in this process; exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["rstar", "store", "export", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def forest() -> list[Tree]:
    return [grow_tree(f"p{number}", 1, num_rollouts=12) for number in range(NUM_PROBLEMS)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the trees of four problems."""
    folder = tmp_path_factory.mktemp("run") / "store"
    trees = forest()
    config = SearchConfig(max_output_chars=1000)
    with Store.create(folder).writer(round=1, settings=config) as writer:
        for tree in trees:
            writer.append(tree, level="easy", source="curriculum")
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the rows that a round draws from the same trees, and no trees."""
    folder = tmp_path_factory.mktemp("run") / "drawn"
    trees = forest()
    problems = [Problem(id=t.problem_id, question=t.question, answer="") for t in trees]
    reading: dict[str, Any] = {
        "format": BARE,
        "encode": lambda text: [ord(c) for c in text],
        "max_output_chars": 1000,
    }
    examples = sft_set(trees, problems, config=SFTSetConfig(), seed=0, **reading).examples
    groups = pair_set(trees, config=PairConfig(), **reading).groups
    with Store.create(folder).writer(round=1) as writer:
        writer.write_table(Kind.SFT, examples_table(examples))
        writer.write_table(Kind.PAIRS, pairs_table(groups))
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("to", ["trl-sft", "trl-reward", "trl-dpo"])
def test_rows_drawn_from_trees_are_those_that_a_round_draws(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    searched: Path,
    drawn: Path,
    to: str,
    suffix: str,
) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in ("trees", "rows")]
    for store, file in zip((searched, drawn), files, strict=True):
        code, out, _ = export(capsys, monkeypatch, store, "--to", to, "--out", file, "--json")
        assert code == 0
        assert json.loads(out)["rows"] == len(rows_of(file)) > 0
    of_trees, of_rows = (sorted(rows_of(file), key=json.dumps) for file in files)
    assert of_trees == of_rows


def test_an_sft_row_is_a_prompt_and_a_verified_solution(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searched: Path
) -> None:
    export(capsys, monkeypatch, searched, "--to", "trl-sft", "--out", tmp_path / "a.jsonl")
    questions = {tree.problem_id: tree.question for tree in forest()}
    for row in rows_of(tmp_path / "a.jsonl"):
        assert row["prompt"] == f"<|user|>\n{questions[row['problem_id']]}\n<|assistant|>\n<code>\n"
        assert row["completion"].endswith(END_OF_ANSWER)
        assert parse_solution(f"<code>\n{row['completion']}").output is not None
    few = rows_of(tmp_path / "a.jsonl")
    export(
        capsys, monkeypatch, searched, "--to", "trl-sft", "--out", tmp_path / "b.jsonl",
        "--set", "sft_set.num_per_problem=1",
    )  # fmt: skip
    assert len(rows_of(tmp_path / "b.jsonl")) == len({row["problem_id"] for row in few}) < len(few)


def test_a_margin_is_the_difference_of_q_values_and_the_right_answer_is_chosen(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searched: Path
) -> None:
    file = tmp_path / "a.parquet"
    export(capsys, monkeypatch, searched, "--to", "trl-reward", "--out", file, "--margin")
    rows = rows_of(file)
    assert {row["kind"] for row in rows} == {"step", "final"}
    assert all(row["margin"] == 2 for row in rows if row["kind"] == "final")
    assert all(0.5 <= row["margin"] <= 2 for row in rows)


def test_verl_rows_have_its_columns_and_a_reference_answer(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searched: Path
) -> None:
    file = tmp_path / "a.parquet"
    assert export(capsys, monkeypatch, searched, "--to", "verl", "--out", file)[0] == 0
    trees = {tree.problem_id: tree for tree in forest()}
    rows = rows_of(file)
    assert [list(row) for row in rows] == [
        ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    ] * len(rows)
    assert {row["extra_info"]["problem_id"] for row in rows} == {
        t.problem_id for t in trees.values() if t.solved
    }
    for index, row in enumerate(rows):
        tree = trees[row["extra_info"]["problem_id"]]
        right = {node.answer for node in tree.nodes if node.verified}
        assert row["prompt"] == [{"role": "user", "content": tree.question}]
        assert row["reward_model"]["style"] == "rule"
        assert row["reward_model"]["ground_truth"] in right
        assert (row["data_source"], row["extra_info"]["index"]) == ("curriculum", index)
    problems = [
        Problem(id=t.problem_id, question=t.question, answer=f"a{n}") for n, t in enumerate(trees.values())
    ]
    write_problems(tmp_path / "p.jsonl", problems)
    export(
        capsys, monkeypatch, searched, "--to", "verl", "--out", file, "--problems", tmp_path / "p.jsonl",
        "--data-source", "math_dapo",
    )  # fmt: skip
    rows = rows_of(file)
    assert {row["data_source"] for row in rows} == {"math_dapo"}
    assert {row["extra_info"]["problem_id"]: row["reward_model"]["ground_truth"] for row in rows} == {
        problem.id: problem.answer for problem in problems
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{trees}", "--to", "trl-ppo"], "--to is 'trl-ppo'; it must be one of trl-sft, trl-reward, trl-dpo, verl"),
        (["{trees}", "--to", "trl-sft", "--out", "{tmp}/a.csv"], "its suffix must be .parquet or .jsonl"),
        (["{trees}", "--to", "trl-sft", "--set", "pairs.num_final=1"], "unknown section pairs for trl-sft; settings begin with sft_set"),
        (["{trees}", "--to", "verl", "--set", "pairs.num_final=1"], "unknown section pairs for verl; it has no settings"),
        (["{trees}", "--to", "trl-sft", "--set", "sft_set.max_tokens=9"], "limit lengths in the trainer"),
        (["{trees}", "--to", "trl-sft", "--set", "sft_set.per_problem=9"], "per_problem"),
        (["{trees}", "--to", "trl-sft", "--margin"], "--margin is for trl-reward"),
        (["{trees}", "--to", "trl-sft", "--data-source", "x"], "are for verl"),
        (["{trees}", "--to", "trl-sft", "--round", "7"], "has nothing of round 7"),
        (["{trees}", "--to", "trl-sft", "--prompt-format", "x"], "--prompt-format is 'x'"),
        (["{trees}", "--to", "verl", "--problems", "{tmp}/other.jsonl"], "which is not among --problems"),
        (["{rows}", "--to", "trl-sft", "--set", "sft_set.num_per_problem=1"], "rows that are drawn already"),
        (["{rows}", "--to", "verl"], "no trees from which any could be drawn for verl"),
        (["{tmp}", "--to", "verl"], "is not a store"),
        (["{trees}", "--to", "verl", "--out", "{tmp}/none/a.jsonl"], "cannot be written"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searched: Path, drawn: Path,
    arguments: list[str], line: str,
) -> None:  # fmt: skip
    write_problems(tmp_path / "other.jsonl", [Problem(id="other", question="?", answer="1")])
    filled = [argument.format(tmp=tmp_path, trees=searched, rows=drawn) for argument in arguments]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "a.jsonl")]
    code, _, err = export(capsys, monkeypatch, *filled)
    assert code == WRONG
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1, "one line"
    assert not (tmp_path / "a.jsonl").exists()


# --- the real trainers ---


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, searched: Path) -> Path:
    """A tiny model whose tokenizer knows the texts."""
    texts = [trajectory.text for trajectory in Store(searched).trajectories()]
    return save_tiny_base(tmp_path_factory.mktemp("base"), texts + [tree.question for tree in forest()])


def trained(base: Path, file: Path, out: Path, to: str) -> Any:
    """Two steps of TRL's trainer on the file, loaded by `datasets` and handed over as it is."""
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    name = {"trl-sft": "SFT", "trl-reward": "Reward", "trl-dpo": "DPO"}[to]
    kind = {".parquet": "parquet", ".jsonl": "json"}[file.suffix]
    data = datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=str(out / "cache"))
    assert data.num_rows == len(rows_of(file))
    tokenizer = AutoTokenizer.from_pretrained(base)
    if to == "trl-reward":
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    config = getattr(trl, f"{name}Config")(
        output_dir=str(out / "out"), max_steps=2, per_device_train_batch_size=2, logging_steps=1, save_strategy="no",
        report_to=[], use_cpu=True, bf16=False, max_length=192, disable_tqdm=True,
    )  # fmt: skip
    trainer = getattr(trl, f"{name}Trainer")(
        model=model, args=config, train_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    return trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("to", ["trl-sft", "trl-reward", "trl-dpo"])
def test_trl_trains_on_the_file_as_it_is(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    searched: Path,
    base: Path,
    to: str,
    suffix: str,
) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    more = ["--margin"] if to == "trl-reward" else []
    file = tmp_path / f"file{suffix}"
    assert export(capsys, monkeypatch, searched, "--to", to, "--out", file, *more)[0] == 0
    trainer = trained(base, file, tmp_path, to)
    if to == "trl-sft":
        prompt = rows_of(file)[0]["prompt"]
        batch = next(iter(trainer.get_train_dataloader()))
        assert (batch["labels"] == -100).any(), f"nothing is learned of prompts such as {prompt!r}"


def test_datasets_loads_every_file(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searched: Path
) -> None:
    import datasets

    for to in ("trl-sft", "trl-reward", "trl-dpo", "verl"):
        for suffix, kind in ((".parquet", "parquet"), (".jsonl", "json")):
            file = tmp_path / f"{to}{suffix}"
            assert export(capsys, monkeypatch, searched, "--to", to, "--out", file)[0] == 0
            data = datasets.load_dataset(
                kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
            )
            assert data.to_list() == rows_of(file)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_verls_own_data_set_class_takes_the_file_as_it_is(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searched: Path, base: Path, suffix: str
) -> None:
    reason = "verl's data set class is not installed; it needs verl, tensordict, pyvers and omegaconf, without dependencies"
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset", reason=reason)
    omegaconf = pytest.importorskip("omegaconf")
    from transformers import AutoTokenizer

    file = tmp_path / f"a{suffix}"
    assert export(capsys, monkeypatch, searched, "--to", "verl", "--out", file)[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}<|user|>\n{{ m.content }}\n{% endfor %}<|assistant|>\n"
    config = omegaconf.OmegaConf.create(
        {"cache_dir": str(tmp_path), "max_prompt_length": 512, "filter_overlong_prompts_workers": 1}
    )
    data = rl_dataset.RLHFDataset(str(file), tokenizer, config)
    rows = rows_of(file)
    assert len(data) == len(rows)
    batch = rl_dataset.collate_fn([data[index] for index in range(len(data))])
    assert [messages[0]["content"] for messages in batch["raw_prompt"]] == [
        r["prompt"][0]["content"] for r in rows
    ]
    assert [model["ground_truth"] for model in batch["reward_model"]] == [
        r["reward_model"]["ground_truth"] for r in rows
    ]
    assert list(batch["data_source"]) == ["curriculum"] * len(rows)
    assert list(batch["index"]) == list(range(len(rows)))
