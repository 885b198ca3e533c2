"""Losses of preference training: tensors in, a scalar out (rStar-Math, section 3.3; its table 8 for the baselines).

Legend: P pairs, S judged continuations (steps or trajectories). Each loss is a weighted sum, so that micro-batches of one
batch add up to the loss of the batch: weights are shares of the whole batch. Computed in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry_loss(rewards_chosen_P: Tensor, rewards_rejected_P: Tensor, weights_P: Tensor) -> Tensor:
    """Σ weight · -log σ(r_chosen - r_rejected): the paper's pairwise ranking loss.

    With weight 1 / (|chosen| · |rejected|) for each pair of a prefix it is that prefix's loss; dividing by the number of
    prefixes makes it the mean over them.
    """
    return (weights_P * softplus(_at_least_float32(rewards_rejected_P - rewards_chosen_P))).sum()


def q_value_loss(rewards_S: Tensor, q_values_S: Tensor, weights_S: Tensor) -> Tensor:
    """Σ weight · (r - Q)²: regression on Q-values in [-1, 1] (PQM)."""
    return (weights_S * (_at_least_float32(rewards_S) - q_values_S).square()).sum()


def outcome_loss(raw_S: Tensor, q_values_S: Tensor, weights_S: Tensor) -> Tensor:
    """Σ weight · -log p(outcome): cross-entropy on whole trajectories (ORM). `q_values_S` is +1 for a correct, -1 for a wrong one.

    `raw_S` are the head's numbers before the bound. p(correct) = (1 + tanh raw) / 2 = σ(2 · raw): the bounded score is then
    2p - 1, the reward to be expected, and p takes any value. (With the bounded score itself as logit, p could never leave
    (0.27, 0.73): the loss would have a floor of 0.31, and what is certain already would go on pulling.)"""
    raw_S = _at_least_float32(raw_S)
    return (weights_S * softplus(-2 * q_values_S * raw_S)).sum()


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
