"""Supervised fine-tuning of a base model on examples, with the Hugging Face Trainer (rStar-Math, section 4.1).

    out/
      config.json, model.safetensors, tokenizer.json, generation_config.json, ...   the trained model
      training.json     settings, hashes of data and base, losses; written last: its presence means complete
      tensorboard/      metrics
      run.json, checkpoints/    while training; a rerun of the same training goes on from the newest complete one

Killed at any moment and started again, training ends in the weights of an undisturbed run, bit for bit on one machine
with equal `num_threads`. One process drives one device; several processes are started by torchrun or DeepSpeed.
What this file does not cover: which examples (`sft_sets`), and whether the model got better (`evaluate`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from policy.config import Precision, SFTConfig
from policy.losses import policy_token_loss
from policy.packing import collate
from policy.sft_sets import SFTExample
from rstar.config import to_plain
from rstar.errors import ConfigError, StageError
from rstar.seeds import derive
from rstar.training_folder import (
    CHECKPOINTS,
    RUN,
    TRAINING,
    folder_hash,
    newest_checkpoint,
    read_json,
    refuse_another_training,
    step_of,
    write_json,
)

SCHEMA_VERSION = 1

_NO_EFFECT_ON_WEIGHTS = ("logging_steps", "save_steps", "num_threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training did. Losses are nats per policy token, the mean over a logging interval."""

    model: Path
    num_examples: int
    num_steps: int
    num_tokens: int
    """Tokens of one epoch, prompts and program output included."""
    num_policy_tokens: int
    """Tokens of one epoch that the loss is over."""
    first_loss: float
    final_loss: float
    losses: tuple[float, ...]
    train_s: float
    """Wall time in the training loop of this process; what a killed one spent before is not in it."""
    resumed_from_step: int
    """0: from the start; `num_steps`: nothing was left to do."""


def train(
    examples: Sequence[SFTExample], *, base: Path, out: Path, config: SFTConfig, seed: int
) -> TrainingResult:
    """Fine-tune the model in the folder `base` on `examples`, into the folder `out`.

    `seed` decides the order of the examples (and dropout, where a model has it). Called again with equal arguments it
    goes on where it was stopped, or returns at once when `out` is complete.
    Raises StageError when there are no examples, one is too long for `max_length` or the model, or `out` holds another
    training; ConfigError when `base` is no model folder or the settings do not fit the number of processes.
    """
    if not examples:
        raise StageError("there are no examples to train on: no verified trajectory was kept")
    if not (base / "config.json").is_file():
        raise ConfigError(f"base is {str(base)!r}; it must be a folder with a model and its config.json")
    identity = {
        "settings": {k: v for k, v in to_plain(config).items() if k not in _NO_EFFECT_ON_WEIGHTS},
        "seed": seed,
        "data_hash": data_hash(examples),
        "base_hash": folder_hash(base),
    }
    done = read_json(out / TRAINING)
    if done is not None:
        refuse_another_training(done, identity, out)
        return _result(out, done, resumed_from_step=done["num_steps"], train_s=0.0)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where installed, warns unless it is told
    with _threads(config.num_threads), _progress_bars_on_terminals_only():
        return _train(examples, base, out, config, seed, identity)


def _train(
    examples: Sequence[SFTExample],
    base: Path,
    out: Path,
    config: SFTConfig,
    seed: int,
    identity: dict[str, Any],
) -> TrainingResult:
    args = _arguments(out / CHECKPOINTS, config, seed, num_examples=len(examples))
    begun = read_json(out / RUN)
    if begun is not None:
        refuse_another_training(begun, identity, out)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation=config.attention
    )
    base_dtype = getattr(torch, str(json.loads((base / "config.json").read_text()).get("dtype", "float32")))
    _check_lengths(examples, config.max_length, model.config.max_position_embeddings)
    checkpoint = newest_checkpoint(out / CHECKPOINTS)
    callbacks: list[TrainerCallback] = []
    if args.process_index == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, identity)
        callbacks.append(_tensorboard(out / "tensorboard", step_of(checkpoint)))
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        data_collator=functools.partial(collate, packing=config.packing),
        processing_class=tokenizer,
        compute_loss_func=_loss,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    train_s = time.perf_counter() - start

    if not trainer.is_deepspeed_enabled:
        model.to(base_dtype)
    model.config.use_cache = True  # the Trainer turned it off for training
    trainer.save_model(str(out))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    done = {
        "schema_version": SCHEMA_VERSION,
        **identity,
        "num_examples": len(examples),
        "num_steps": trainer.state.global_step,
        "num_tokens": sum(len(example.token_ids) for example in examples),
        "num_policy_tokens": sum(example.num_policy_tokens for example in examples),
        "losses": losses,
    }
    if trainer.is_world_process_zero():
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle; training.json says it in the open
        write_json(out / TRAINING, done)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / RUN).unlink()
    trainer.accelerator.wait_for_everyone()
    return _result(out, done, resumed_from_step=step_of(checkpoint), train_s=train_s)


def data_hash(examples: Sequence[SFTExample]) -> str:
    """SHA-256 of what the examples teach: token ids and masks, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.token_ids, example.loss_mask]).encode())
    return digest.hexdigest()


def _arguments(folder: Path, config: SFTConfig, seed: int, *, num_examples: int) -> TrainingArguments:
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation, rest = divmod(config.global_batch_size, config.micro_batch_size * num_processes)
    if rest:
        per_pass = config.micro_batch_size * num_processes
        raise ConfigError(
            f"global_batch_size is {config.global_batch_size}; with {num_processes} processes of micro_batch_size "
            f"{config.micro_batch_size} it must be a multiple of {per_pass}"
        )
    num_steps = config.epochs * math.ceil(num_examples / config.global_batch_size)
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=str(config.schedule),
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        use_cpu=not torch.accelerator.is_available(),
        bf16=config.precision is Precision.BFLOAT16,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        logging_steps=min(config.logging_steps, num_steps),  # so that at least one loss is logged
        logging_nan_inf_filter=False,  # a diverged loss is shown, not smoothed over
        save_steps=config.save_steps,
        save_total_limit=2,
        seed=derive(seed, "sft") % 2**31,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",  # TensorBoard is added with its own folder
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=True,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # not DataParallel, which would multiply the batch; further devices take a launcher
    return args


def _loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    assert num_items_in_batch is not None, "the Trainer counts the labels of a global batch"
    return policy_token_loss(outputs["logits"], labels, num_items_in_batch)


def _tensorboard(folder: Path, step: int) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    # purge_step hides what a killed run had logged after the checkpoint that this one starts from.
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step + 1 if step else None))


def _check_lengths(examples: Sequence[SFTExample], max_length: int, context: int) -> None:
    longest = max(examples, key=lambda example: len(example.token_ids))
    length = len(longest.token_ids)
    at = f"the example of problem {longest.problem_id} has {length} tokens"
    if length > max_length:
        raise StageError(
            f"{at}; max_length is {max_length}: raise it or lower max_tokens of the training set"
        )
    if length > context:
        raise StageError(f"{at}; the base model takes {context}: lower max_tokens of the training set")


def _result(out: Path, done: dict[str, Any], *, resumed_from_step: int, train_s: float) -> TrainingResult:
    return TrainingResult(
        model=out,
        num_examples=done["num_examples"],
        num_steps=done["num_steps"],
        num_tokens=done["num_tokens"],
        num_policy_tokens=done["num_policy_tokens"],
        first_loss=done["losses"][0],
        final_loss=done["losses"][-1],
        losses=tuple(done["losses"]),
        train_s=train_s,
        resumed_from_step=resumed_from_step,
    )


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
