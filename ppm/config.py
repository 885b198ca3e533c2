"""Settings of preference training: which pairs are drawn from trees, and how the process preference model is trained.

Frozen dataclasses that import no model code. Defaults are the paper's (rStar-Math, arXiv:2501.04519, sections 3.3 and
4.1) unless noted; `rstar.config.build` reads them from a recipe.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum

from rstar.config import require
from rstar.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How a round's preference pairs are drawn from its trees."""

    max_chosen: int = 2
    """Steps of one prefix on the chosen side at most. [paper]"""
    max_rejected: int = 2
    """Steps of one prefix on the rejected side at most. [paper]"""
    max_widened: int = 4
    """Steps that one side may have where the other has 1. [code]"""
    min_q_margin: float = 0.5
    """A pair of steps is kept when Q(chosen) - Q(rejected) is at least this, in [0, 2]. [code]"""
    min_edit_distance: int = 20
    """A pair of steps is kept when their texts are at least so many characters apart (insertions, deletions,
    substitutions); 0 keeps all. [code]"""
    num_final: int = 2
    """Whole trajectories on each side of a tree's final pairs at most; 0: no final pairs. [paper]"""
    max_tokens: int = 4096
    """A pair with a longer step, or a longer trajectory after its prompt, is left out: what is judged is never cut.
    [paper: length 4096]"""
    retokenize: bool = False
    """Encode the steps' text anew: only where the preference model's tokenizer is not that of the policy that searched
    (the first round of a 7B recipe). [ours]"""

    def __post_init__(self) -> None:
        for name in ("max_chosen", "max_rejected", "max_tokens"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        widest = max(self.max_chosen, self.max_rejected)
        allowed = f"at least max_chosen and max_rejected, {widest}"
        require(self.max_widened >= widest, "max_widened", self.max_widened, allowed)
        require(0 <= self.min_q_margin <= 2, "min_q_margin", self.min_q_margin, "in [0, 2]")
        for name in ("min_edit_distance", "num_final"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


class Objective(StrEnum):
    """What the model learns: the paper's and the baselines of its table 8, with the same trunk and from the same trees."""

    PPM = "ppm"
    """Rank: of two steps after one prefix, the chosen is worth more (Bradley-Terry). [paper]"""
    PQM = "pqm"
    """Regress: a step is worth its Q-value (mean squared error); all steps that were tried (`labels`)."""
    ORM = "orm"
    """Outcome: is a whole trajectory correct (cross-entropy); all trajectories that were judged (`labels`). The score is
    2p - 1, p the probability of being correct."""


class ScoreBound(StrEnum):
    """The function from the head's number to the model's score: one for training and inference [ours]. (The released
    code trains without one and divides by 5 at inference.)"""

    TANH = "tanh"
    """Into (-1, 1). [paper]"""
    NONE = "none"
    """The number itself. A search takes values in [-1, 1], so it is told the tanh, which keeps the order; clipped, all
    that are sure would be equal. [ours]"""


class Sharing(StrEnum):
    """How the sequences of a micro-batch lie in its tensors. No choice changes what a sequence scores: it sees its own
    tokens alone, at its own positions."""

    OFF = "off"
    """One sequence per row, padded to the longest: for attention kernels without masks of their own (flash attention)."""
    PREFIX = "prefix"
    """The steps of one prefix share it."""
    TREE = "tree"
    """All groups of one tree share whatever they have in common, and are in one batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPMConfig(TrainingConfig):
    """How a process preference model is trained (rStar-Math, section 4.1)."""

    objective: Objective = Objective.PPM
    score_bound: ScoreBound = ScoreBound.TANH
    epochs: int = 1
    global_batch_size: int = 512
    """Pairs (of a baseline: labelled steps or trajectories) per optimiser step, over all processes: batches are filled
    with whole groups up to this many."""
    micro_batch_tokens: int = 16384
    """Tokens per forward pass of one process, padding aside, as far as single groups allow: decides memory and speed."""
    max_length: int = 4096
    """Tokens of one sequence at most; of a longer one the left of the prefix goes, never the judged step."""
    held_out_share: float = 0.05
    """Share of the problems whose pairs are not trained on but measured: they choose the best checkpoint. [ours]"""
    sharing: Sharing = Sharing.TREE
    """[ours] On the trees of a first round the fewest tokens by far: see `benchmarks.bench_ppm_batches`."""
    save_steps: int = 50
    """Optimiser steps between checkpoints, at each of which the held-out pairs are measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.micro_batch_tokens >= 1, "micro_batch_tokens", self.micro_batch_tokens, "at least 1")
        require(0 < self.held_out_share < 1, "held_out_share", self.held_out_share, "in (0, 1)")
        fits = not ("flash" in self.attention and self.sharing is not Sharing.OFF)
        require(fits, "sharing", str(self.sharing), f"off with attention {self.attention}")
