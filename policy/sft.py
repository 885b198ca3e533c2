"""Supervised fine-tuning of a base model on examples, with the Hugging Face Trainer (rStar-Math, section 4.1).

    out/
      config.json, model.safetensors, tokenizer.json, generation_config.json, ...   the trained model
      training.json     settings, hashes of data and base, losses; written last: its presence means complete
      tensorboard/      metrics
      run.json, checkpoints/    while training; a rerun of the same training goes on from the newest complete one

Killed at any moment and started again, training ends in the weights of an undisturbed run (`rstar.training.trainer`).
What this file does not cover: which examples (`sft_sets`), and whether the model got better (`evaluate`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from policy.config import SFTConfig
from policy.losses import policy_token_loss
from policy.packing import collate
from policy.sft_sets import SFTExample
from rstar.errors import ConfigError, StageError
from rstar.seeds import derive
from rstar.training.folder import finished, identity_of
from rstar.training.trainer import arguments, finish, fit, num_processes, number_format, session

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
    identity = identity_of(
        config, no_effect=_NO_EFFECT_ON_WEIGHTS, seed=seed, data_hash=data_hash(examples), base=base
    )
    done = finished(out, identity)
    if done is not None:
        return _result(out, done, resumed_from_step=done["num_steps"], train_s=0.0)
    with session(config.num_threads):
        return _train(examples, base, out, config, seed, identity)


def _train(
    examples: Sequence[SFTExample],
    base: Path,
    out: Path,
    config: SFTConfig,
    seed: int,
    identity: dict[str, Any],
) -> TrainingResult:
    args = _arguments(out, config, seed, num_examples=len(examples))
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation=config.attention
    )
    _check_lengths(examples, config.max_length, model.config.max_position_embeddings)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        data_collator=functools.partial(collate, packing=config.packing),
        processing_class=tokenizer,
        compute_loss_func=_loss,
    )
    fitted = fit(trainer, out, identity)

    if not trainer.is_deepspeed_enabled:
        torch.nn.Module.to(model, number_format(base))
    model.config.use_cache = True  # the Trainer turned it off for training
    trainer.save_model(str(out))
    if trainer.is_world_process_zero():
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle; training.json says it in the open
    done = {
        "schema_version": SCHEMA_VERSION,
        **identity,
        "num_examples": len(examples),
        "num_steps": trainer.state.global_step,
        "num_tokens": sum(len(example.token_ids) for example in examples),
        "num_policy_tokens": sum(example.num_policy_tokens for example in examples),
        "losses": fitted.losses,
    }
    finish(trainer, out, done)
    return _result(out, done, resumed_from_step=fitted.resumed_from_step, train_s=fitted.train_s)


def data_hash(examples: Sequence[SFTExample]) -> str:
    """SHA-256 of what the examples teach: token ids and masks, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.token_ids, example.loss_mask]).encode())
    return digest.hexdigest()


def _arguments(out: Path, config: SFTConfig, seed: int, *, num_examples: int) -> TrainingArguments:
    per_pass = config.micro_batch_size * num_processes()
    accumulation, rest = divmod(config.global_batch_size, per_pass)
    if rest:
        raise ConfigError(
            f"global_batch_size is {config.global_batch_size}; with {num_processes()} processes of micro_batch_size "
            f"{config.micro_batch_size} it must be a multiple of {per_pass}"
        )
    return arguments(
        out,
        config,
        num_steps=config.epochs * math.ceil(num_examples / config.global_batch_size),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        seed=derive(seed, "sft") % 2**31,
    )


def _loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    assert num_items_in_batch is not None, "the Trainer counts the labels of a global batch"
    return policy_token_loss(outputs["logits"], labels, num_items_in_batch)


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
