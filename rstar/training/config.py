"""Settings that every training of a model has.

Frozen dataclasses that import no model code. Defaults are the paper's (rStar-Math, arXiv:2501.04519, section 4.1)
unless noted.
"""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum

from rstar.config import require


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
    """CPU threads; null leaves PyTorch's setting. On a small model 1 is often fastest."""

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
