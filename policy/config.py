"""Settings of policy training: what the training set is made of, and how the policy is trained on it.

Frozen dataclasses that import no model code. Defaults are the paper's (rStar-Math, arXiv:2501.04519, section 4.1)
unless noted; `rstar.config.build` reads them from a recipe.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum

from rstar.config import require
from rstar.training.config import TrainingConfig


class Choice(StrEnum):
    """Which of a problem's correct trajectories become examples (rStar-Math, section 3.4 and table 7)."""

    TOP_MEAN_Q = "top_mean_q"
    """Those with the highest mean Q-value. [paper]"""
    RANDOM = "random"
    """Correct ones at random, whatever their Q-values: the paper's ablation. Over trees of independent samples in
    place of a search this is rejection sampling."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTSetConfig:
    """How a round's supervised examples are drawn from its trees."""

    num_per_problem: int = 2
    """Trajectories taken of one problem at most, over all its trees. [paper]"""
    choice: Choice = Choice.TOP_MEAN_Q
    max_similarity: float = 0.95
    """A trajectory whose steps are more alike than this to one already taken is a near-duplicate and not taken: share
    of equal words in order, in [0, 1]; 1 keeps all but exact repetitions. [ours]"""
    noisy_sources: tuple[str, ...] = ()
    """`Problem.source` of problems whose reference answers were generated, so may be wrong."""
    min_correct_share: float = 0.5
    """A problem of a noisy source is left out when less than this share of its sampled answers is correct. [paper]"""
    max_tokens: int = 4096
    """Longer examples are left out, never cut. [paper: length 4096]"""
    retokenize: bool = False
    """Encode the steps' text anew: only for a base model whose tokenizer is not that of the policy that searched (the
    first round of a 7B recipe). Otherwise the sampled ids themselves are the examples. [ours]"""

    def __post_init__(self) -> None:
        require(self.num_per_problem >= 1, "num_per_problem", self.num_per_problem, "at least 1")
        require(0 <= self.max_similarity <= 1, "max_similarity", self.max_similarity, "in [0, 1]")
        require(0 <= self.min_correct_share <= 1, "min_correct_share", self.min_correct_share, "in [0, 1]")
        require(self.max_tokens >= 2, "max_tokens", self.max_tokens, "at least 2")


class Packing(StrEnum):
    """How the examples of a micro-batch lie in its tensors. No choice changes what is learned: attention never crosses
    from one example to another, positions start at 0 in each, and the loss is the same sum over the same tokens."""

    OFF = "off"
    """One example per row, padded to the longest."""
    ROWS = "rows"
    """As few rows as hold them, each as long as the longest example: for dense attention masks (sdpa, eager)."""
    FLAT = "flat"
    """All in one row without padding: for attention kernels that take sequence boundaries (flash attention)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainingConfig):
    """How a base model is fine-tuned (rStar-Math, section 4.1)."""

    epochs: int = 2
    global_batch_size: int = 128
    """Examples per optimiser step, over all processes. The loss is the mean over all their policy tokens."""
    micro_batch_size: int = 8
    """Examples per forward pass of one process: decides memory and speed, not what is learned. Gradients are
    accumulated over global_batch_size / (micro_batch_size x processes) passes."""
    max_length: int = 4096
    """Tokens of one example at most; a longer one is an error."""
    packing: Packing = Packing.ROWS
    save_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.micro_batch_size >= 1, "micro_batch_size", self.micro_batch_size, "at least 1")
        divides = self.global_batch_size % self.micro_batch_size == 0
        allowed = f"a divisor of global_batch_size, {self.global_batch_size}"
        require(divides, "micro_batch_size", self.micro_batch_size, allowed)
        per_pass = self.micro_batch_size * (self.num_processes or 1)
        allowed = f"a multiple of {per_pass}: {self.num_processes} processes of micro_batch_size {self.micro_batch_size}"
        require(self.global_batch_size % per_pass == 0, "global_batch_size", self.global_batch_size, allowed)
        flash = "flash" in self.attention
        fits = not (flash and self.packing is Packing.ROWS)
        require(fits, "packing", str(self.packing), f"flat or off with attention {self.attention}")
