"""Policy training on several processes: the same losses as one, resumed exactly, and a plain model folder at the end."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy.config import SFTConfig
from policy.sft import TrainingResult, train
from rstar.errors import ConfigError, StageError
from rstar.training.config import LoRAConfig, Precision
from rstar.training.folder import TRAINING, newest_checkpoint
from rstar.training.lora import add_adapters, merged
from tests.policy.forest import random_examples, save_tiny_base
from tests.policy.killed_training import CONFIG, EXAMPLES

LORA = LoRAConfig(rank=4, alpha=8)


def with_deepspeed(preset: str) -> Any:
    """A parameter that needs DeepSpeed."""
    return pytest.param(preset, marks=pytest.mark.deepspeed)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"), ["x = 1\nprint(x)\n<end_of_code>"] * 3)


@pytest.fixture(scope="module")
def tied(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose embeddings are its output layer too."""
    folder = tmp_path_factory.mktemp("tied")
    model = AutoModelForCausalLM.from_pretrained(base)
    config = type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True})
    tied = type(model)(config)
    tied.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}, strict=False
    )
    tied.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    out = tmp_path_factory.mktemp("alone")
    return out, train(EXAMPLES, base=base, out=out, config=CONFIG, seed=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spread(**settings: Any) -> SFTConfig:
    return dataclasses.replace(CONFIG, num_processes=2, **settings)


def assert_close(folder: Path, other: Path, tolerance: float) -> None:
    found, expected = (load_file(one / "model.safetensors") for one in (folder, other))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=tolerance)


def test_two_processes_learn_what_one_does_though_they_cannot_share_the_last_batch_evenly(
    base: Path, alone: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    out, expected = alone
    result = train(EXAMPLES, base=base, out=tmp_path, config=spread(), seed=5)
    assert len(EXAMPLES) % CONFIG.global_batch_size in range(1, 2 * CONFIG.micro_batch_size)
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in out.iterdir()}
    assert_close(tmp_path, out, 1e-5)
    again = train(EXAMPLES, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert again.resumed_from_step == again.num_steps, "finished, with whatever number of processes"


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("preset", ["zero1", "zero2", "zero3"])
def test_zero_on_two_processes_learns_what_one_does(
    base: Path, alone: tuple[Path, TrainingResult], tmp_path: Path, preset: str
) -> None:
    out, expected = alone
    result = train(EXAMPLES, base=base, out=tmp_path, config=spread(deepspeed=preset), seed=5)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in out.iterdir()}
    assert_close(tmp_path, out, 1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)  # DeepSpeed compiles its optimiser for the CPU, once
@pytest.mark.deepspeed
@pytest.mark.parametrize("preset", ["zero2-offload", "zero3-offload"])
def test_offload_to_memory_learns_the_same(
    base: Path, alone: tuple[Path, TrainingResult], tmp_path: Path, preset: str
) -> None:
    _, expected = alone
    result = train(EXAMPLES, base=base, out=tmp_path, config=spread(deepspeed=preset), seed=5)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("deepspeed", [None, with_deepspeed("zero3")])
def test_killed_with_sigkill_and_started_again_gives_equal_weights(
    base: Path, tmp_path: Path, repository: Path, deepspeed: str | None
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = spread(deepspeed=deepspeed)
    train(EXAMPLES, base=base, out=whole, config=config, seed=5)
    settings = json.dumps({"num_processes": 2, "deepspeed": deepspeed})
    command = [sys.executable, "-m", "tests.policy.killed_training", str(base), str(parts), "6", settings]
    killed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert killed.returncode == 1
    assert f"killed by signal {signal.SIGKILL.value}" in killed.stderr
    checkpoint = newest_checkpoint(parts / "checkpoints")
    assert checkpoint is not None
    assert not (parts / TRAINING).exists()
    if deepspeed is not None:
        with pytest.raises(
            StageError,
            match=r"was written by 2 processes under ZeRO-3, and 1 processes without DeepSpeed cannot",
        ):
            train(EXAMPLES, base=base, out=parts, config=CONFIG, seed=5)
    result = train(EXAMPLES, base=base, out=parts, config=config, seed=5)
    assert result.resumed_from_step == int(checkpoint.name.removeprefix("checkpoint-")) > 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.deepspeed
def test_tied_embeddings_are_saved_once_and_load_as_one(tied: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    expected = train(EXAMPLES, base=tied, out=one, config=CONFIG, seed=5)
    result = train(EXAMPLES, base=tied, out=two, config=spread(deepspeed="zero3"), seed=5)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    assert_close(two, one, 1e-4)
    assert "lm_head.weight" not in load_file(two / "model.safetensors")
    model: Any = AutoModelForCausalLM.from_pretrained(two)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.deepspeed
def test_bfloat16_checkpointing_and_adapters_go_with_zero_3(base: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, precision=Precision.BFLOAT16, gradient_checkpointing=True, lora=LORA)
    expected = train(EXAMPLES, base=base, out=tmp_path / "one", config=config, seed=5)
    both = dataclasses.replace(config, num_processes=2, deepspeed="zero3")
    result = train(EXAMPLES, base=base, out=tmp_path / "two", config=both, seed=5)
    assert result.losses == pytest.approx(expected.losses, rel=2e-2)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "two").dtype == torch.float32


def test_adapters_alone_are_trained_and_merged_into_a_plain_folder(
    base: Path, alone: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, lora=LORA, learning_rate=1e-2)
    result = train(EXAMPLES, base=base, out=tmp_path, config=config, seed=5)
    assert result.final_loss < result.first_loss
    assert result.first_loss == pytest.approx(alone[1].first_loss, rel=1e-6), "adapters start at nothing"
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        adapted = name.endswith("_proj.weight")
        assert torch.equal(tensor, before[name]) != adapted, name


def test_merged_weights_compute_what_the_adapters_do(base: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    add_adapters(model, LORA, head=model.lm_head, trained_head=False, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    ids = torch.tensor([EXAMPLES[0].token_ids])
    plain.load_state_dict(merged(model.state_dict(), LORA))
    model.eval()
    torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert (plain(ids).logits - AutoModelForCausalLM.from_pretrained(base)(ids).logits).abs().max() > 0.01


def test_a_layer_that_the_model_has_not_is_one_clear_line(base: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, lora=LoRAConfig(target_modules=("query",)))
    with pytest.raises(
        ConfigError, match=r"^lora\.target_modules has 'query'; the model's are down_proj, gate"
    ):
        train(EXAMPLES, base=base, out=tmp_path, config=config, seed=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"deepspeed": "zero3"},
            r"^deepspeed needs the package deepspeed, which is not installed: pip install ",
        ),
        ({"lora": LORA}, r"^lora needs the package peft, which is not installed: pip install "),
    ],
    ids=str,
)
def test_a_missing_package_is_one_clear_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("rstar.training.trainer.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=message):
        train(EXAMPLES, base=base, out=tmp_path, config=dataclasses.replace(CONFIG, **settings), seed=5)


def test_more_processes_than_gpus_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"^num_processes is 2 on this machine, which has 1 GPUs; one process"
    ):
        train(EXAMPLES, base=base, out=tmp_path, config=spread(), seed=5)


@pytest.mark.slow
def test_what_a_process_refuses_comes_back_as_its_own_line(base: Path, tmp_path: Path) -> None:
    long = random_examples(8, vocab_size=200, seed=0, lengths=(257, 257))
    with pytest.raises(
        StageError, match=r"^the example of problem p\d has 257 tokens; the base model takes 256"
    ):
        train(long, base=base, out=tmp_path, config=spread(), seed=0)
