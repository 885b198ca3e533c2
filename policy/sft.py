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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from policy.config import Packing, SFTConfig
from policy.losses import policy_token_loss
from policy.packing import collate
from policy.sft_sets import SFTExample
from rstar.errors import ConfigError, StageError
from rstar.seeds import derive
from rstar.training.config import HOW_IT_IS_SPREAD
from rstar.training.folder import finished, identity_of
from rstar.training.hosts import Hosts
from rstar.training.lora import add_adapters
from rstar.training.trainer import (
    arguments,
    finish,
    fit,
    num_processes,
    number_format,
    optimizer_of,
    run,
    save_model,
    weights_format,
)

SCHEMA_VERSION = 1

_NO_EFFECT_ON_WEIGHTS = ("logging_steps", "save_steps", *HOW_IT_IS_SPREAD)
_PADDING = -1
"""In place of an example's index: none."""


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
    examples: Sequence[SFTExample],
    *,
    base: Path,
    out: Path,
    config: SFTConfig,
    seed: int,
    hosts: Hosts | None = None,
) -> TrainingResult:
    """Fine-tune the model in the folder `base` on `examples`, into the folder `out`.

    `seed` decides the order of the examples (and dropout, where a model has it). Called again with equal arguments it
    goes on where it was stopped, or returns at once when `out` is complete. `hosts` are the machines to train on, in place
    of those that `config` names.
    Raises StageError when there are no examples, one is too long for `max_length` or the model, `out` holds another
    training, or a process fails; ConfigError when `base` is no model folder or the settings do not fit the number of
    processes.
    """
    if not examples:
        raise StageError("there are no examples to train on: no verified trajectory was kept")
    identity = identity_of(
        config, no_effect=_NO_EFFECT_ON_WEIGHTS, seed=seed, data_hash=data_hash(examples), base=base
    )
    done = finished(out, identity)
    if done is not None:
        return _result(out, done, resumed_from_step=done["num_steps"], train_s=0.0)
    _accumulation(config, num_processes(config, hosts))
    return run(
        _train, out=out, config=config, hosts=hosts, examples=examples, base=base, seed=seed, identity=identity
    )  # fmt: skip


def _train(
    *,
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
        base, dtype=weights_format(base, config), attn_implementation=config.attention
    )
    _check_lengths(examples, config.max_length, model.config.max_position_embeddings)
    if config.lora is not None:
        head = model.get_output_embeddings()
        add_adapters(model, config.lora, head=head, trained_head=False, seed=derive(seed, "sft", "lora"))
    trainer = _OrderedTrainer(
        model=model,
        args=args,
        train_dataset=_Examples(examples),
        data_collator=functools.partial(_collate, packing=config.packing),
        compute_loss_func=_loss,
        optimizer_cls_and_kwargs=optimizer_of(config),
    )
    fitted = fit(trainer, out, identity)

    model.config.use_cache = True  # the Trainer turned it off for training
    save_model(trainer, model, out, prefix="", dtype=number_format(base), lora=config.lora)
    done = {
        "schema_version": SCHEMA_VERSION,
        **identity,
        "num_examples": len(examples),
        "num_steps": trainer.state.global_step,
        "num_tokens": sum(len(example.token_ids) for example in examples),
        "num_policy_tokens": sum(example.num_policy_tokens for example in examples),
        "losses": fitted.losses,
    }
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(out)
    finish(trainer, out, done)
    return _result(out, done, resumed_from_step=fitted.resumed_from_step, train_s=fitted.train_s)


class _Examples(Dataset[SFTExample | None]):
    """The examples; None at `_PADDING`."""

    def __init__(self, examples: Sequence[SFTExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> SFTExample | None:
        return None if index == _PADDING else self._examples[index]


def _collate(items: Sequence[SFTExample | None], *, packing: Packing) -> dict[str, torch.Tensor]:
    return collate([example for example in items if example is not None], packing)


class _Order(Sampler[int]):
    """The examples' indices in each epoch's order, one for any number of processes; the last pass of an epoch is filled up,
    so that every process has equally many."""

    def __init__(self, count: int, per_pass: int, seed: int) -> None:
        self._shuffled = SeedableRandomSampler(range(count), data_seed=seed)
        self._num_padding = -count % per_pass

    def __len__(self) -> int:
        return len(self._shuffled) + self._num_padding

    def __iter__(self) -> Iterator[int]:
        return chain(self._shuffled, repeat(_PADDING, self._num_padding))

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each."""
        self._shuffled.set_epoch(epoch)


class _OrderedTrainer(Trainer):
    """The Trainer over that order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> _Order:
        assert isinstance(self.train_dataset, _Examples)
        world = self.args.world_size
        per_pass = self.args.per_device_train_batch_size * world if world > 1 else 1
        return _Order(len(self.train_dataset), per_pass, self.args.seed)


def data_hash(examples: Sequence[SFTExample]) -> str:
    """SHA-256 of what the examples teach: token ids and masks, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.token_ids, example.loss_mask]).encode())
    return digest.hexdigest()


def _accumulation(config: SFTConfig, processes: int) -> int:
    """Forward passes of a process per optimiser step."""
    per_pass = config.micro_batch_size * processes
    accumulation, rest = divmod(config.global_batch_size, per_pass)
    if rest:
        raise ConfigError(
            f"global_batch_size is {config.global_batch_size}; with {processes} processes of micro_batch_size "
            f"{config.micro_batch_size} it must be a multiple of {per_pass}"
        )
    return accumulation


def _arguments(out: Path, config: SFTConfig, seed: int, *, num_examples: int) -> TrainingArguments:
    return arguments(
        out,
        config,
        num_steps=config.epochs * math.ceil(num_examples / config.global_batch_size),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=_accumulation(config, num_processes(config)),
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
