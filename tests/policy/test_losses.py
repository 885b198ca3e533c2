"""The loss against hand-worked numbers and a naive reference."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.losses import IGNORED, policy_token_loss


def naive_loss(logits_BTV: torch.Tensor, labels_BT: torch.Tensor, num_tokens: int) -> float:
    """The definition, token by token in Python floats."""
    total = 0.0
    for row_TV, labels_T in zip(logits_BTV.tolist(), labels_BT.tolist(), strict=True):
        for logits_V, label in zip(row_TV[:-1], labels_T[1:], strict=True):
            if label != IGNORED:
                total += math.log(sum(math.exp(logit) for logit in logits_V)) - logits_V[label]
    return total / num_tokens


def test_a_token_is_predicted_from_the_position_before_it() -> None:
    logits = torch.tensor([[[math.log(3.0), 0.0], [100.0, -100.0], [0.0, 0.0]]])
    labels = torch.tensor([[IGNORED, 0, IGNORED]])
    # Position 0 gives token 0 the probability 3/4; positions 1 and 2 predict nothing that counts.
    assert math.isclose(policy_token_loss(logits, labels, 1).item(), math.log(4 / 3), rel_tol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 3),
    width=st.integers(2, 6),
    num_tokens=st.integers(1, 50),
)
def test_loss_equals_the_naive_sum(seed: int, rows: int, width: int, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (rows, width), generator=generator)
    labels[torch.rand(rows, width, generator=generator) < 0.5] = IGNORED
    loss = policy_token_loss(logits, labels, num_tokens).item()
    assert math.isclose(loss, naive_loss(logits, labels, num_tokens), rel_tol=1e-12, abs_tol=1e-12)


def test_micro_batches_of_unequal_size_add_up_to_the_mean_over_all_tokens() -> None:
    logits = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(0, 7, (2, 9), generator=torch.Generator().manual_seed(1))
    labels[1, :7] = IGNORED  # the second micro-batch has 2 targets, the first has 8
    parts = torch.stack(
        [policy_token_loss(logits[row : row + 1], labels[row : row + 1], 10) for row in range(2)]
    )
    torch.testing.assert_close(parts.sum(), policy_token_loss(logits, labels, 10), rtol=1e-12, atol=0)
    means = torch.stack([
        policy_token_loss(logits[row : row + 1], labels[row : row + 1], count) for row, count in ((0, 8), (1, 2))
    ])  # fmt: skip
    assert abs((means.mean() - parts.sum()).item()) > 1e-3, "a mean of means would differ here"


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1, 2, 3, dtype=torch.bfloat16)
    loss = policy_token_loss(logits, torch.tensor([[IGNORED, 1]]), 1)
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), math.log(3), rel_tol=1e-6)
