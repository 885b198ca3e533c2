"""What a back-end has done so far, for progress display and benchmarks. Plain numbers: no torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self


@dataclass(slots=True)
class Totals:
    """Running totals, field by field: those of several engines add up, and what came later is a difference."""

    def __sub__(self, earlier: Self) -> Self:
        return type(self)(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(slots=True)
class EngineStats(Totals):
    """Running totals of one engine, or of several together.

    `prefill_tokens` are those of all prefixes asked for, `cached_tokens` the part that needed no computing.
    `rows` counts the tokens fed over all `steps`; `busy_s` is the wall time spent in steps.
    """

    generated_tokens: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    prefill_passes: int = 0
    steps: int = 0
    rows: int = 0
    busy_s: float = 0.0

    @property
    def mean_batch_rows(self) -> float:
        """Tokens fed per step; 0 before the first."""
        return self.rows / self.steps if self.steps else 0.0

    @property
    def cache_hit_share(self) -> float:
        """Share of the prefix tokens that came from the prefix cache; 0 before the first."""
        return self.cached_tokens / self.prefill_tokens if self.prefill_tokens else 0.0
