"""Training a tiny model: it learns, packs and resumes exactly, and its bad inputs give one clear line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy.config import Packing, SFTConfig, SFTSetConfig
from policy.sft import train
from policy.sft_sets import SFTExample, sft_set
from rstar.errors import ConfigError, StageError
from rstar.problems import Problem
from rstar.prompts import BARE, render_prompt, start
from rstar.steps import END_OF_ANSWER, TAGS
from rstar.training.config import Precision
from rstar.training.folder import COMPLETE, TRAINING, newest_checkpoint
from rstar.training.hosts import Hosts
from rstar.trajectories import extend_prefix, trajectories
from rstar.tree import ROOT, Tree
from tests.policy.forest import add_solution, example, random_examples, save_tiny_base, tree_of
from tests.policy.killed_training import CONFIG, EXAMPLES, call_after_step


def learnable_tree(index: int) -> Tree:
    """3 + 4 written out as code, with other small numbers for every index."""
    first, second = 2 + index % 3, 4 + index // 3
    tree = tree_of(f"p{index:02}")
    tree.question = f"What is {first} + {second}?"
    code = [f"# Step 1: add\nx = {first} + {second}", "# Step 2: print\nprint(x)"]
    add_solution(tree, code, str(first + second), q=1.0, stdout=f"{first + second}\n")
    return tree


TREES = [learnable_tree(index) for index in range(6)]
TEXTS = [
    render_prompt(BARE, tree.question) + t.text for tree in TREES for t in trajectories(tree)
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"), TEXTS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    result = train(EXAMPLES, base=base, out=out, config=CONFIG, seed=5)
    assert result.num_steps == 9
    assert result.resumed_from_step == 0
    return out


@pytest.mark.timeout(300)  # two start-ups of PyTorch on a busy machine
def test_killed_with_sigkill_and_started_again_gives_equal_weights(
    base: Path, undisturbed: Path, tmp_path: Path, repository: Path
) -> None:
    command = [sys.executable, "-m", "tests.policy.killed_training", str(base), str(tmp_path), "6"]
    killed = subprocess.run(command, cwd=repository, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / TRAINING).exists()
    result = train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert result.resumed_from_step == 4
    assert weights(tmp_path) == weights(undisturbed)


class Stopped(Exception):
    pass


def stop() -> None:
    raise Stopped


@pytest.mark.parametrize(("stop_at", "resumed_from"), [(1, 0), (7, 6), (9, 8)])
def test_stopped_at_any_step_and_started_again_gives_equal_weights(
    base: Path, undisturbed: Path, tmp_path: Path, stop_at: int, resumed_from: int
) -> None:
    handle = call_after_step(stop_at, stop)
    with pytest.raises(Stopped):
        train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    handle.remove()
    result = train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert result.resumed_from_step == resumed_from
    assert weights(tmp_path) == weights(undisturbed)


def test_a_checkpoint_that_was_cut_off_is_passed_over(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    handle = call_after_step(7, stop)
    with pytest.raises(Stopped):
        train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    handle.remove()
    whole, cut = (tmp_path / "checkpoints" / f"checkpoint-{step}" for step in (4, 6))
    assert newest_checkpoint(tmp_path / "checkpoints") == cut
    (cut / COMPLETE).unlink()
    (cut / "optimizer.pt").write_bytes(b"")
    assert newest_checkpoint(tmp_path / "checkpoints") == whole
    result = train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert result.resumed_from_step == 4
    assert weights(tmp_path) == weights(undisturbed)


def test_a_finished_training_is_not_done_again(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"untouched")
    result = train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert weights(tmp_path) == b"untouched"
    assert result.num_steps == result.resumed_from_step == 9


@pytest.mark.parametrize(
    ("change", "named"), [({"learning_rate": 1e-4}, "learning_rate"), ({"epochs": 4}, "epochs")]
)
def test_a_folder_with_another_training_is_refused_by_what_differs(
    base: Path, undisturbed: Path, change: dict[str, float], named: str
) -> None:
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    with pytest.raises(StageError, match=rf"holds another training \(different: {named}\)"):
        train(EXAMPLES, base=base, out=undisturbed, config=config, seed=5)


def test_other_data_seed_or_base_make_another_training(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"different: data_hash\)"):
        train(EXAMPLES[1:], base=base, out=undisturbed, config=CONFIG, seed=5)
    with pytest.raises(StageError, match=r"different: seed\)"):
        train(EXAMPLES, base=base, out=undisturbed, config=CONFIG, seed=6)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text("{}")
    with pytest.raises(StageError, match=r"different: base_hash\)"):
        train(EXAMPLES, base=tmp_path, out=undisturbed, config=CONFIG, seed=5)


def test_settings_that_only_decide_logging_and_speed_may_change(base: Path, undisturbed: Path) -> None:
    config = dataclasses.replace(CONFIG, logging_steps=7, save_steps=50, num_threads=None)
    assert train(EXAMPLES, base=base, out=undisturbed, config=config, seed=5).num_steps == 9


def test_the_result_is_a_plain_model_folder_with_its_record(base: Path, undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tensorboard", "tokenizer.json",
        "tokenizer_config.json", TRAINING,
    }  # fmt: skip
    record = json.loads((undisturbed / TRAINING).read_text())
    assert record["num_examples"] == len(EXAMPLES)
    assert record["num_policy_tokens"] == sum(one.num_policy_tokens for one in EXAMPLES)
    assert len(record["losses"]) == record["num_steps"] == 9
    assert record["settings"]["learning_rate"] == CONFIG.learning_rate
    assert list((undisturbed / "tensorboard").glob("events.*"))
    assert json.loads((undisturbed / "config.json").read_text())["use_cache"] is True


def test_fault_8_the_saved_tokenizer_encodes_as_the_base_models(base: Path, undisturbed: Path) -> None:
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (base, undisturbed))
    for text in [*TEXTS, *TAGS, "\n", "12345 \t unknown ÄÖ"]:
        assert after.encode(text, add_special_tokens=False) == before.encode(text, add_special_tokens=False)


def test_first_loss_is_the_mean_over_the_global_batchs_policy_tokens(base: Path, tmp_path: Path) -> None:
    """Two micro-batches with very unequal numbers of policy tokens."""
    examples = [
        example(range(10, 50), [0, *[1] * 39], problem_id="long"),
        example(range(60, 100), [*[0] * 39, 1], problem_id="short"),
    ]
    config = SFTConfig(epochs=1, global_batch_size=2, micro_batch_size=1, num_threads=1)
    result = train(examples, base=base, out=tmp_path, config=config, seed=0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    total = 0.0
    for one in examples:
        ids = torch.tensor([one.token_ids])
        logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        total -= (logprobs * torch.tensor(one.loss_mask[1:])).sum().item()
    assert result.num_steps == 1
    assert result.first_loss == pytest.approx(total / 40, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"packing": Packing.OFF},
        {"packing": Packing.FLAT},
        {"micro_batch_size": 8},
        {"micro_batch_size": 1},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_packing_micro_batches_and_checkpointing_do_not_change_what_is_learned(
    base: Path, undisturbed: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    result = train(EXAMPLES, base=base, out=tmp_path, config=config, seed=5)
    expected = json.loads((undisturbed / TRAINING).read_text())["losses"]
    assert result.losses == pytest.approx(expected, rel=1e-4)
    assert expected[0] - expected[-1] > 0.1, "the losses that agree are those of a model that moves"


def examples_of(trees: list[Tree], base: Path) -> tuple[SFTExample, ...]:
    """The training set of trees whose steps were sampled with the base model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    for tree in trees:
        for node in tree.nodes:
            node.token_ids = tuple(encode(node.text))
    problems = [
        Problem(id=tree.problem_id, question=tree.question, answer="7", level="easy") for tree in trees
    ]
    made = sft_set(
        trees, problems, config=SFTSetConfig(), format=BARE, encode=encode, max_output_chars=2000, seed=0
    )
    return made.examples


def test_training_lowers_the_loss_and_the_model_then_decodes_the_solutions_greedily(
    base: Path, tmp_path: Path
) -> None:
    examples = examples_of(TREES, base)
    assert len(examples) == len(TREES)
    config = SFTConfig(
        epochs=100, learning_rate=5e-3, global_batch_size=3, micro_batch_size=3, num_threads=1
    )  # fmt: skip
    result = train(examples, base=base, out=tmp_path, config=config, seed=0)
    assert result.final_loss < 0.1 * result.first_loss
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    end = tokenizer.convert_tokens_to_ids(END_OF_ANSWER)
    num_right = 0
    for tree, one in zip(TREES, examples, strict=True):
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        prefix = start(render_prompt(BARE, tree.question), encode)
        node_id = ROOT
        # Decode step by step as the search does: the policy's ids stay, the engine writes between them.
        while tree.nodes[node_id].children:
            node_id = tree.nodes[node_id].children[0]
            node = tree.nodes[node_id]
            written = model.generate(
                torch.tensor([prefix.token_ids]), max_new_tokens=len(node.token_ids), do_sample=False,
                eos_token_id=end, pad_token_id=0, attention_mask=torch.ones(1, len(prefix.token_ids)),
            )[0, len(prefix.token_ids) :]  # fmt: skip
            if tuple(written.tolist()) != node.token_ids:
                break
            prefix = extend_prefix(prefix, node, tree.program_output(node_id), encode, 2000)
        else:
            assert prefix.token_ids == one.token_ids
            num_right += 1
    assert num_right == len(TREES)


def test_bfloat16_autocast_learns_the_same_in_float32_weights(
    base: Path, undisturbed: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, precision=Precision.BFLOAT16)
    result = train(EXAMPLES, base=base, out=tmp_path, config=config, seed=5)
    expected = json.loads((undisturbed / TRAINING).read_text())["losses"]
    assert result.losses == pytest.approx(expected, rel=1e-2)
    assert result.losses != pytest.approx(expected, rel=1e-7), "half precision was in use"
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32


def test_the_same_seed_repeats_and_another_one_differs(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    train(EXAMPLES, base=base, out=tmp_path / "same", config=CONFIG, seed=5)
    train(EXAMPLES, base=base, out=tmp_path / "other", config=CONFIG, seed=6)
    assert weights(tmp_path / "same") == weights(undisturbed)
    assert weights(tmp_path / "other") != weights(undisturbed)


def test_the_base_models_weights_are_saved_in_its_own_number_format(base: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(base).save_pretrained(half)
    config = dataclasses.replace(CONFIG, epochs=1)
    train(EXAMPLES, base=half, out=tmp_path / "out", config=config, seed=5)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_nothing_is_drawn_or_printed_where_there_is_no_terminal(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    train(EXAMPLES, base=base, out=tmp_path, config=config, seed=5)
    assert capfd.readouterr() == ("", "")


def test_no_examples_is_one_clear_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"^there are no examples to train on: no verified trajectory was kept$"
    ):
        train([], base=base, out=tmp_path, config=CONFIG, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_no_model_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^base is '.*'; it must be a folder with a model"):
        train(EXAMPLES, base=tmp_path, out=tmp_path / "out", config=CONFIG, seed=0)


def test_fault_9_a_too_long_example_is_refused_not_cut(base: Path, tmp_path: Path) -> None:
    long = random_examples(1, vocab_size=200, seed=0, lengths=(257, 257))
    with pytest.raises(
        StageError, match=r"^the example of problem p0 has 257 tokens; the base model takes 256"
    ):
        train(long, base=base, out=tmp_path, config=CONFIG, seed=0)
    config = dataclasses.replace(CONFIG, max_length=100)
    with pytest.raises(StageError, match=r"^the example of problem p0 has 257 tokens; max_length is 100"):
        train(long, base=base, out=tmp_path, config=config, seed=0)


def test_a_batch_that_the_processes_cannot_share_is_one_clear_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^global_batch_size is 8; it must be a multiple of 12: 3 processes of micro_batch_size 4$",
    ):
        dataclasses.replace(CONFIG, num_processes=3)
    with pytest.raises(ConfigError, match=r"^global_batch_size is 8; with 3 processes .* multiple of 12$"):
        train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=0, hosts=Hosts(slots={"a": 1, "b": 2}))


def test_a_training_shorter_than_its_logging_interval_still_tells_its_loss(
    base: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, logging_steps=1000)
    result = train(EXAMPLES, base=base, out=tmp_path / "out", config=config, seed=0)
    assert result.final_loss > 0
