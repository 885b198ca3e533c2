"""The Trainer's set-up: what it changes in the process, it changes back; its settings follow ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from rstar.errors import StageError
from rstar.training.config import Precision, Schedule, TrainingConfig
from rstar.training.hosts import Hosts
from rstar.training.trainer import _session, arguments, number_format, run, shared_out


def test_a_session_has_its_threads_and_leaves_the_process_as_it_was() -> None:
    before = (torch.get_num_threads(), transformers_logging.is_progress_bar_enabled())
    with _session(1):
        assert torch.get_num_threads() == 1
    with _session(None):
        assert torch.get_num_threads() == before[0]
    assert (torch.get_num_threads(), transformers_logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(("precision", "half"), [(Precision.FLOAT32, False), (Precision.BFLOAT16, True)])
def test_the_trainers_settings_are_those_of_the_configuration(
    tmp_path: Path, precision: Precision, half: bool
) -> None:
    config = TrainingConfig(
        epochs=1, global_batch_size=8, save_steps=7, learning_rate=0.25, weight_decay=0.5, warmup_ratio=0.125,
        max_grad_norm=3.0, schedule=Schedule.COSINE, precision=precision, logging_steps=100,
    )  # fmt: skip
    args = arguments(tmp_path, config, num_steps=20, seed=4, per_device_train_batch_size=2)
    found = (args.learning_rate, args.weight_decay, args.warmup_steps, args.max_grad_norm, args.save_steps)
    assert found == (0.25, 0.5, 0.125, 3.0, 7)
    assert (args.lr_scheduler_type, args.bf16, args.seed, args.train_batch_size) == ("cosine", half, 4, 2)
    assert args.logging_steps == 20, "a training shorter than its logging interval still tells its loss"


def test_one_process_on_another_machine_is_started_there(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, global_batch_size=8, save_steps=7)
    far = Hosts(slots={"far-away": 1}, remote_shell=("no-such-shell",))
    with pytest.raises(StageError, match=r"^cannot start a training on far-away: no-such-shell"):
        run(os.getpid, out=tmp_path, config=config, hosts=far)
    assert run(lambda **given: given["out"], out=tmp_path, config=config) == tmp_path


def test_parts_that_processes_share_out_come_back_in_order() -> None:
    assert shared_out([3, 1, 2], lambda part: part * 2, filler=0) == [6, 2, 4]


@pytest.mark.parametrize(
    ("config", "dtype"), [({"dtype": "bfloat16"}, torch.bfloat16), ({}, torch.float32)], ids=str
)
def test_the_number_format_is_that_of_the_saved_model(
    tmp_path: Path, config: dict[str, Any], dtype: torch.dtype
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert number_format(tmp_path) is dtype
