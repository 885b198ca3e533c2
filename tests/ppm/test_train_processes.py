"""Preference training on several processes: the same losses, accuracies and best checkpoint as one, resumed exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ppm.config import Objective
from ppm.evaluate import pair_accuracy
from ppm.model import load
from ppm.train import TrainingResult, split, train
from rstar.training.config import LoRAConfig, Precision
from rstar.training.folder import TRAINING
from tests.policy.forest import save_tiny_base
from tests.ppm.models import random_labelled_groups
from tests.ppm.test_train import CONFIG, GROUPS

WAVERING = dataclasses.replace(CONFIG, save_steps=2, learning_rate=0.1, warmup_ratio=0.5)
"""A rate at which held-out accuracy goes up and down, so that the best checkpoint is not the last."""


def with_deepspeed(preset: str) -> Any:
    """A parameter that needs DeepSpeed."""
    return pytest.param(preset, marks=pytest.mark.deepspeed)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"), ["x = 1\nprint(x)\n<end_of_code>"] * 3)


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    out = tmp_path_factory.mktemp("alone")
    return out, train(GROUPS, base=base, out=out, config=CONFIG, seed=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spread(**settings: Any) -> Any:
    return dataclasses.replace(CONFIG, num_processes=2, **settings)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("deepspeed", [None, with_deepspeed("zero2"), with_deepspeed("zero3")])
def test_two_processes_learn_and_measure_what_one_does(
    base: Path, alone: tuple[Path, TrainingResult], tmp_path: Path, deepspeed: str | None
) -> None:
    out, expected = alone
    result = train(GROUPS, base=base, out=tmp_path, config=spread(deepspeed=deepspeed), seed=5)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    assert result.accuracies == expected.accuracies
    assert result.best_step == expected.best_step
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in out.iterdir()}
    found, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path, out))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("deepspeed", [None, with_deepspeed("zero3")])
def test_the_best_checkpoint_is_kept_whatever_shares_it(
    base: Path, tmp_path: Path, deepspeed: str | None
) -> None:
    config = dataclasses.replace(WAVERING, num_processes=2, deepspeed=deepspeed)
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5)
    best = max(result.accuracies.values())
    assert result.best_step == min(step for step, share in result.accuracies.items() if share == best)
    record = json.loads((tmp_path / TRAINING).read_text())
    assert record["best_step"] == result.best_step
    _, held_out = split(GROUPS, share=config.held_out_share, seed=5)
    measured = pair_accuracy(load(tmp_path), held_out, sharing=config.sharing, max_length=64)
    assert measured.overall == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("objective", [Objective.PQM, Objective.ORM])
def test_a_baseline_learns_the_same_on_two_processes(
    base: Path, tmp_path: Path, objective: Objective
) -> None:
    labelled = random_labelled_groups(40, seed=2, num_trees=12)
    one = dataclasses.replace(CONFIG, objective=objective, epochs=1)
    two = dataclasses.replace(one, num_processes=2)
    expected, result = (
        train(GROUPS, base=base, out=tmp_path / name, config=config, seed=5, labelled=labelled)
        for name, config in (("one", one), ("two", two))
    )
    assert result.losses == pytest.approx(expected.losses, abs=1e-5)


def test_with_adapters_the_head_is_trained_whole_and_the_folder_is_plain(base: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, lora=LoRAConfig(rank=4, alpha=8), learning_rate=1e-2, epochs=3)
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5)
    assert result.losses[-1] < result.losses[0]
    assert result.accuracy > 0.9
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path))
    assert after.keys() == before.keys() - {"lm_head.weight"} | {"score.weight"}
    assert after["score.weight"].abs().max() > 0
    for name in after.keys() & before.keys():
        if name.endswith(("norm.weight", "embed_tokens.weight", "bias")):
            assert torch.equal(after[name], before[name]), name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.deepspeed
def test_adapters_and_bfloat16_go_with_zero_3(base: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, lora=LoRAConfig(rank=4, alpha=8), precision=Precision.BFLOAT16, gradient_checkpointing=True,
        learning_rate=1e-2, num_processes=2, deepspeed="zero3",
    )  # fmt: skip
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5)
    assert result.losses[-1] < result.losses[0]
    assert result.accuracy > 0.9
    assert load(tmp_path).classifier.dtype == torch.float32
