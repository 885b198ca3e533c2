"""Settings that every training of a model has.

Frozen dataclasses that import no model code. Defaults are the paper's (rStar-Math, arXiv:2501.04519, section 4.1)
unless noted.
"""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum
from typing import Any

from rstar.config import require
from rstar.training import zero


class Precision(StrEnum):
    """Numbers that the forward and backward passes use; weights and optimiser state are float32 either way."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """Autocast."""


class Schedule(StrEnum):
    """Learning rate over the steps, after warm-up."""

    LINEAR = "linear"
    """Down to 0. [paper]"""
    COSINE = "cosine"
    CONSTANT = "constant_with_warmup"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters (arXiv:2106.09685) in place of all weights: what is trained are two thin matrices beside each
    linear layer. They are merged into the weights at the end, so the result is a model folder like any other."""

    rank: int = 16
    alpha: int = 32
    """The adapters' product counts alpha / rank times."""
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that have adapters, such as q_proj; empty: all of them."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "at least 1")
        require(self.alpha >= 1, "alpha", self.alpha, "at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained, with AdamW. What differs from one kind of model to the next has no default here."""

    epochs: int
    learning_rate: float = 7e-6
    schedule: Schedule = Schedule.LINEAR
    warmup_ratio: float = 0.0
    """Share of all steps over which the learning rate rises from 0. [ours]"""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone. [ours]"""
    global_batch_size: int
    """What one optimiser step learns from, over all processes."""
    max_length: int = 4096
    """Tokens of one sequence at most."""
    attention: str = "sdpa"
    """Transformers' name of the attention implementation: sdpa, eager, flash_attention_2, ..."""
    precision: Precision = Precision.FLOAT32
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logging_steps: int = 1
    save_steps: int
    """Optimiser steps between checkpoints; the newest two are kept until training is complete."""
    num_threads: int | None = None
    """CPU threads of a process; null leaves PyTorch's setting. On a small model 1 is often fastest."""
    num_processes: int | None = None
    """Processes that train together, one per GPU; null or 1: this one alone. With a host file: as many as its slots."""
    deepspeed: str | dict[str, Any] | None = None
    """Train under DeepSpeed: the name of a preset (`zero.PRESETS`), the path of a JSON file, or its content."""
    host_file: str | None = None
    """Machines to train on, in DeepSpeed's format: a line `name slots=8` each. Null: this one."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters; null: all weights."""

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch_size", "max_length", "logging_steps", "save_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        rate = self.learning_rate
        require(0 < rate < math.inf, "learning_rate", rate, "finite and above 0")
        require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "in [0, 1)")
        for name in ("weight_decay", "max_grad_norm"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "finite and at least 0")
        threads = self.num_threads
        require(threads is None or threads >= 1, "num_threads", threads, "at least 1, or null")
        count = self.num_processes
        require(count is None or count >= 1, "num_processes", count, "at least 1, or null")
        if self.deepspeed is not None:
            zero.check(self.deepspeed)


HOW_IT_IS_SPREAD = ("num_processes", "deepspeed", "host_file", "num_threads")
"""Settings that decide where the numbers are added up, and so their last digits, as another kind of GPU would: a finished
training stays finished when they change."""
