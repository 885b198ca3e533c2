"""Sampling: counter-based uniforms and inverse CDF, against naive ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar.backends.sampling import sample, uniforms


def draw(
    logits: torch.Tensor, u: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[list[int], list[float]]:
    rows = len(logits)
    tokens, logprobs = sample(
        logits,
        u,
        torch.full((rows,), temperature),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p),
    )
    return tokens.tolist(), logprobs.tolist()


@given(seed=st.integers(0, 2**63 - 1), start=st.integers(0, 50), count=st.integers(1, 5))
def test_a_uniform_depends_only_on_seed_candidate_and_position(seed: int, start: int, count: int) -> None:
    whole = uniforms(seed, range(60), 40)
    part = uniforms(seed, range(start, start + count), 7)
    assert np.array_equal(part, whole[start : start + count, :7])
    assert whole.min() >= 0
    assert whole.max() <= 1 - 2**-48


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    u = np.concatenate([uniforms(seed, range(20), 50) for seed in range(200)])
    counts, _ = np.histogram(u, bins=100, range=(0, 1))
    chi_squared = float((((counts - u.size / 100) ** 2) / (u.size / 100)).sum())
    assert chi_squared < 160  # 99 degrees of freedom: p < 1e-4 above
    for other in (u[1:, :], u[:, 1:]):  # neighbouring candidates (and seeds), neighbouring positions
        first = u[: other.shape[0], : other.shape[1]]
        assert abs(float(np.corrcoef(first.ravel(), other.ravel())[0, 1])) < 0.01


def naive_token(logits: list[float], u: float, temperature: float, top_k: int, top_p: float) -> int:
    """In plain Python, one number at a time."""
    if temperature == 0:
        return logits.index(max(logits))
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    kept = order[: top_k or len(order)]
    total = math.fsum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass >= top_p * total:
            break
        nucleus.append(i)
        mass += weights[i]
    target = u * math.fsum(weights[i] for i in nucleus)
    running = 0.0
    for i in sorted(nucleus):
        running += weights[i]
        if running > target:
            return i
    return max(nucleus)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**9),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.01]),
)
def test_tokens_equal_naive_inverse_cdf(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(6, 10, generator=generator, dtype=torch.float64)
    u = torch.rand(6, generator=generator, dtype=torch.float64)
    tokens, logprobs = draw(logits, u, temperature, top_k, top_p)
    for row, token, logprob, number in zip(logits.tolist(), tokens, logprobs, u.tolist(), strict=True):
        assert token == naive_token(row, number, temperature, top_k, top_p)
        assert logprob == pytest.approx(row[token] - math.log(math.fsum(map(math.exp, row))), abs=1e-9)


def test_frequencies_are_the_models_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    u = torch.from_numpy(uniforms(3, range(100), 200).ravel())
    tokens, _ = draw(logits.expand(len(u), -1), u, temperature=2.0)
    expected = torch.softmax(logits[0] / 2.0, dim=-1)
    found = torch.bincount(torch.tensor(tokens), minlength=4) / len(tokens)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.015)  # about 4 standard errors


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    u = torch.tensor([0.1, 0.9, 0.5, 0.7], dtype=torch.float64)
    temperature, top_k = torch.tensor([0.0, 1.0, 0.5, 1.0]), torch.tensor([0, 3, 0, 0])
    top_p = torch.tensor([1.0, 1.0, 1.0, 0.5])
    together = sample(logits, u, temperature, top_k, top_p)[0].tolist()
    alone = [
        int(
            sample(
                logits[i : i + 1], u[i : i + 1], temperature[i : i + 1], top_k[i : i + 1], top_p[i : i + 1]
            )[0]
        )
        for i in range(4)
    ]
    assert together == alone


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(3, -1)
    tokens, _ = draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-48], dtype=torch.float64))
    assert tokens == [1, 3, 3]
