"""From next-token logits to tokens, by inverse-CDF sampling with counter-based uniform numbers.

The uniform number of a token is a function of (request seed, candidate index, position in the completion) and of
nothing else, so a candidate depends only on its request and on the model's logits: not on the batch, the process,
or what was sampled before. Equal logits give equal tokens; logits that differ by floating-point noise (another batch
size may sum in another order) give equal tokens except when the uniform number falls within that noise of a boundary.

What this file does not cover: when a completion ends (`stops`, `engine`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits that scrambles counters."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, candidates: range, num_positions: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1 - 2**-48], one row per candidate index, one column per position.

    Entry (c, t) depends on `seed` (its low 64 bits), c and t only.
    """
    indices = np.arange(candidates.start, candidates.stop, dtype=np.uint64)
    mixed: NDArray[np.uint64] = indices * np.uint64(_GOLDEN) + np.uint64(1)
    keys = _mix(_mix(mixed) ^ _mix(np.array([seed & _MASK_64], dtype=np.uint64)))
    counters = np.arange(1, num_positions + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits: NDArray[np.uint64] = _mix(keys[:, None] + counters[None, :]) >> np.uint64(16)
    return bits.astype(np.float64) * 2.0**-48


def sample(
    logits_RV: Tensor, uniforms_R: Tensor, temperature_R: Tensor, top_k_R: Tensor, top_p_R: Tensor
) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability: two tensors of shape (R,), int64 and at least float32.

    The token is the inverse CDF, in vocabulary order, of the distribution after temperature, then `top_k` (0: off;
    ties at the border stay), then `top_p` (the smallest set of likeliest tokens that holds at least that mass);
    `temperature` 0 is greedy. The log-probability is of the model's own distribution: temperature 1, nothing cut.
    """
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    logprobs_RV = torch.log_softmax(logits_RV, dim=-1, dtype=wide)
    greedy_R = temperature_R == 0
    if bool(greedy_R.all()):
        tokens_R = logprobs_RV.argmax(dim=-1)
    else:
        tempered_RV = logprobs_RV / torch.where(greedy_R, 1.0, temperature_R)[:, None]
        probs_RV = _cut(torch.softmax(tempered_RV, dim=-1), top_k_R, top_p_R)
        cdf_RV = probs_RV.cumsum(dim=-1, dtype=torch.float64)
        tokens_R = torch.searchsorted(cdf_RV, uniforms_R[:, None] * cdf_RV[:, -1:], right=True)[:, 0]
        if bool(greedy_R.any()):
            tokens_R = torch.where(greedy_R, logprobs_RV.argmax(dim=-1), tokens_R)
    return tokens_R, logprobs_RV.gather(1, tokens_R[:, None])[:, 0]


def _cut(probs_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor) -> Tensor:
    """The probabilities with everything outside top-k, then outside top-p, set to 0 (not renormalised)."""
    if not bool((top_k_R > 0).any()) and not bool((top_p_R < 1).any()):
        return probs_RV
    vocab_size = probs_RV.shape[-1]
    sorted_RV = probs_RV.sort(dim=-1, descending=True).values
    k_R = torch.where(top_k_R > 0, top_k_R, vocab_size).clamp(max=vocab_size)
    threshold_R1 = sorted_RV.gather(1, (k_R - 1)[:, None])
    sorted_RV = torch.where(sorted_RV >= threshold_R1, sorted_RV, 0.0)
    mass_RV = sorted_RV.cumsum(dim=-1, dtype=torch.float64)
    # A token stays while the mass before it is below top_p of what top-k left; the first always stays.
    before_RV = mass_RV - sorted_RV
    kept_RV = (before_RV < top_p_R[:, None] * mass_RV[:, -1:]) & (sorted_RV > 0)
    smallest_R1 = sorted_RV.gather(1, kept_RV.sum(dim=-1, keepdim=True) - 1)
    return torch.where(probs_RV >= torch.maximum(smallest_R1, threshold_R1), probs_RV, 0.0)
