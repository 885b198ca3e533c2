"""The losses against hand-worked numbers, the formula in Python floats, and numerical gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ppm.losses import bradley_terry_loss, outcome_loss, q_value_loss

numbers = st.floats(-3, 3)


def test_bradley_terry_by_hand() -> None:
    """Rewards ln 3 and 0 give the chosen a probability of 3/4."""
    three, zero = torch.tensor([math.log(3)]), torch.tensor([0.0])
    assert math.isclose(bradley_terry_loss(three, zero, torch.ones(1)).item(), math.log(4 / 3), rel_tol=1e-6)
    assert math.isclose(bradley_terry_loss(zero, three, torch.ones(1)).item(), math.log(4), rel_tol=1e-6)


def test_a_fresh_model_starts_at_log_2() -> None:
    zeros = torch.zeros(8)
    assert math.isclose(
        bradley_terry_loss(zeros, zeros, torch.full((8,), 1 / 8)).item(), math.log(2), rel_tol=1e-6
    )


@given(chosen=st.lists(numbers, min_size=1, max_size=4), rejected=st.lists(numbers, min_size=1, max_size=4))
def test_one_prefix_equals_the_papers_formula(chosen: list[float], rejected: list[float]) -> None:
    """-1 / (|chosen| · |rejected|) · Σ log σ(r_c - r_r)."""
    expected = -sum(math.log(1 / (1 + math.exp(r - c))) for c in chosen for r in rejected)
    expected /= len(chosen) * len(rejected)
    count = len(chosen) * len(rejected)
    pairs = torch.tensor([[c, r] for c in chosen for r in rejected], dtype=torch.float64)
    loss = bradley_terry_loss(pairs[:, 0], pairs[:, 1], torch.full((count,), 1 / count, dtype=torch.float64))
    assert math.isclose(loss.item(), expected, rel_tol=1e-12, abs_tol=1e-12)


def test_q_value_loss_by_hand() -> None:
    rewards, q_values = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0])
    assert q_value_loss(rewards, q_values, torch.full((2,), 0.5)).item() == (0.25 + 1.0) / 2


def test_outcome_loss_by_hand() -> None:
    """Numbers of (ln 3) / 2 give a probability of 3/4 of being correct."""
    raw, q_values = torch.full((2,), math.log(3) / 2), torch.tensor([1.0, -1.0])
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert math.isclose(outcome_loss(raw, q_values, torch.full((2,), 0.5)).item(), expected, rel_tol=1e-6)


@given(raw=numbers)
def test_the_bounded_score_of_an_outcome_model_is_2p_minus_1(raw: float) -> None:
    loss = outcome_loss(torch.tensor([raw], dtype=torch.float64), torch.ones(1), torch.ones(1)).item()
    assert math.isclose(2 * math.exp(-loss) - 1, math.tanh(raw), rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize(("raw", "q_value", "low", "high"), [(20.0, 1.0, 0, 1e-9), (20.0, -1.0, 39, 41)])
def test_an_outcome_model_may_be_as_sure_as_it_likes(
    raw: float, q_value: float, low: float, high: float
) -> None:
    loss = outcome_loss(torch.tensor([raw]), torch.tensor([q_value]), torch.ones(1)).item()
    assert low <= loss <= high


Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "bradley_terry": lambda r, w: bradley_terry_loss(r[:2], r[2:4], w[:2]),
    "q_value": lambda r, w: q_value_loss(r, torch.linspace(-1, 1, 4, dtype=r.dtype), w),
    "outcome": lambda r, w: outcome_loss(r, torch.tensor([1, -1, 1, -1]), w),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    rewards = torch.tensor([0.3, -0.8, 0.9, -0.1], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: LOSSES[name](r, weights), (rewards,))


def test_bradley_terry_gradient_by_hand() -> None:
    """Of -log σ(c - r): the probability of the wrong order, pushing the two apart."""
    chosen = torch.tensor([0.7], requires_grad=True)
    rejected = torch.tensor([0.2], requires_grad=True)
    bradley_terry_loss(chosen, rejected, torch.ones(1)).backward()
    wrong = 1 / (1 + math.exp(0.5))
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-wrong, wrong))


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up_and_half_precision_is_summed_in_float32(name: str) -> None:
    weights = torch.full((4,), 0.25)
    rewards = torch.tensor([0.3, -0.8, 0.9, -0.1])
    loss = LOSSES[name](rewards, weights)
    halves = [torch.where(torch.arange(4) % 2 == part, weights, 0.0) for part in (0, 1)]
    torch.testing.assert_close(sum(LOSSES[name](rewards, half) for half in halves), loss)
    assert LOSSES[name](rewards.bfloat16(), weights).dtype == torch.float32


@given(margin=st.floats(-1000, 1000))
def test_extreme_margins_stay_finite(margin: float) -> None:
    loss = bradley_terry_loss(torch.tensor([margin]), torch.tensor([0.0]), torch.ones(1))
    assert math.isfinite(loss.item())
    assert loss.item() >= 0
