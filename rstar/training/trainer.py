"""The Hugging Face Trainer as every training here uses it: in a folder that says what it is of, and resumable exactly.

Killed at any moment and started again, a training ends in the weights of an undisturbed run, bit for bit on one machine
with equal `num_threads`. One process drives one device; several processes are started by torchrun or DeepSpeed.
What this file does not cover: models, data and losses, which are the caller's; the folder's files (`folder`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from rstar.training.config import Precision, TrainingConfig
from rstar.training.folder import CHECKPOINTS, RUN, TRAINING, newest_checkpoint, step_of, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the Trainer's loop did."""

    losses: list[float]
    """The mean over each logging interval."""
    train_s: float
    """Wall time in the loop of this process; what a killed one spent before is not in it."""
    resumed_from_step: int
    """0: from the start."""


@contextlib.contextmanager
def session(num_threads: int | None) -> Iterator[None]:
    """Around a whole training: so many CPU threads, and no progress bars where nobody sees them."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where installed, warns unless it is told
    with _threads(num_threads), _progress_bars_on_terminals_only():
        yield


def num_processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number_format(model: Path) -> torch.dtype:
    """The number format in which the model in a folder is saved."""
    dtype = getattr(torch, str(json.loads((model / "config.json").read_text()).get("dtype", "float32")))
    assert isinstance(dtype, torch.dtype)
    return dtype


def arguments(out: Path, config: TrainingConfig, *, num_steps: int, **own: Any) -> TrainingArguments:
    """The Trainer's settings for a training of `num_steps` optimiser steps into the folder `out`; `own` are the
    caller's: epochs, batches, seed, evaluation, ..."""
    args = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        learning_rate=config.learning_rate,
        lr_scheduler_type=str(config.schedule),
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        use_cpu=not torch.accelerator.is_available(),
        bf16=config.precision is Precision.BFLOAT16,
        logging_steps=min(config.logging_steps, num_steps),  # so that at least one loss is logged
        logging_nan_inf_filter=False,  # a diverged loss is shown, not smoothed over
        save_steps=config.save_steps,
        save_total_limit=2,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",  # TensorBoard is added with its own folder
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=True,
        **own,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # not DataParallel, which would change the batches; further devices take a launcher
    return args


def fit(trainer: Trainer, out: Path, identity: dict[str, Any]) -> Fit:
    """Train, from the newest complete checkpoint in `out` if there is one; `identity` marks the folder as this
    training's until `finish`."""
    checkpoint = newest_checkpoint(out / CHECKPOINTS)
    if trainer.is_world_process_zero():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, identity)
        trainer.add_callback(_tensorboard(out / "tensorboard", step_of(checkpoint)))
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return Fit(
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        train_s=time.perf_counter() - start,
        resumed_from_step=step_of(checkpoint),
    )


def finish(trainer: Trainer, out: Path, record: dict[str, Any]) -> None:
    """The model is saved: write the training's record, which makes the folder complete, and clear up."""
    if trainer.is_world_process_zero():
        write_json(out / TRAINING, record)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / RUN).unlink()
    trainer.accelerator.wait_for_everyone()


def _tensorboard(folder: Path, step: int) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    # purge_step hides what a killed run had logged after the checkpoint that this one starts from.
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step + 1 if step else None))


@contextlib.contextmanager
def _threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _progress_bars_on_terminals_only() -> Iterator[None]:
    """Loading and saving a model draw bars of their own, whatever the Trainer is told."""
    if sys.stderr.isatty() or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
