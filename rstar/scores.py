"""Selection scores: pure functions of numbers.

What an unvisited child is worth under UCT is a decision of the search (`SearchConfig.unvisited_score`), not of the formula.
"""

from __future__ import annotations

import math


def uct(q_value: float, visit_count: float, parent_visit_count: float, *, c_uct: float) -> float:
    """Upper confidence bound of a child: q + c * sqrt(ln(N_parent) / N).

    rStar-Math (arXiv:2501.04519), equation 1, with c = 2 there. `q_value` is in [-1, 1]. A parent that was never visited
    counts as visited once (no exploration term): so it is at the first choice below a freshly scored expansion.
    Raises ValueError for an unvisited child.
    """
    if visit_count <= 0:
        raise ValueError(f"uct is undefined for visit_count={visit_count}; see SearchConfig.unvisited_score")
    return q_value + c_uct * math.sqrt(math.log(max(1.0, parent_visit_count)) / visit_count)


def puct(
    q_value: float, prior: float, visit_count: float, parent_visit_count: float, *, c_puct: float
) -> float:
    """Predictor + upper confidence bound: q + c * prior * sqrt(N_parent) / (1 + N).

    AlphaZero (arXiv:1712.01815), as in its pseudocode with a constant c. `prior` in [0, 1] is the step's length-normalised
    policy probability; `q_value` in [-1, 1], 0 for an unvisited child. A parent never visited counts as visited once,
    so that the prior decides between unvisited children.
    """
    return q_value + c_puct * prior * math.sqrt(max(1.0, parent_visit_count)) / (1.0 + visit_count)


def length_normalised_probability(mean_logprob: float) -> float:
    """The geometric mean of a step's token probabilities, in [0, 1]."""
    return math.exp(min(0.0, mean_logprob))
