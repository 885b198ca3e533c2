"""The plan's arithmetic beside what the paper says its own search cost: round 2, 747 thousand problems, 3 days on 60
A100 with 40 GB (arXiv:2501.04519)."""

from __future__ import annotations

from dataclasses import dataclass

from rounds.plan.assumptions import Assumptions
from rounds.plan.hardware import read_gpus
from rounds.plan.plan import make_plan
from rounds.plan.rates import GpuRates
from rounds.recipe import load_rounds

RECIPE, ROUND, GPUS, PROBLEMS, DAYS = "rstar-math-7b", 2, "60xA100-40GB", 747_000, 3.0
"""What the paper ran, and how long it took."""
LOCK_STEP = 2.53
"""Time of a lock-step search, such as the released code's, over ours: `benchmarks.bench_scheduling`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCheck:
    """The plan of the paper's round 2, and the paper's own figure."""

    planned_days: float
    lock_step_days: float
    """The same if the engines were as idle as in a lock-step search."""
    published_days: float
    tokens: float
    tokens_per_s_per_gpu: float
    """That the published time comes to, for the planned tokens."""


def published_check(assumed: Assumptions) -> PublishedCheck:
    """Plan it under these assumptions."""
    recipes = load_rounds(RECIPE)[:ROUND]
    gpus = read_gpus(GPUS)
    plan = make_plan(recipes, GpuRates(gpus, assumed), assumed, problems=PROBLEMS, evaluation_problems=1)
    (search,) = (stage for stage in plan.stages if stage.name == f"round{ROUND}/search")
    days = search.hours / 24
    return PublishedCheck(
        planned_days=days,
        lock_step_days=days * assumed.utilisation * LOCK_STEP,
        published_days=DAYS,
        tokens=search.tokens,
        tokens_per_s_per_gpu=search.tokens / (DAYS * 86400 * gpus.count),
    )
