"""Settings of the preparation of problems: a frozen dataclass that `rstar problems prepare --set KEY=VALUE` changes."""

from __future__ import annotations

import dataclasses

from rstar.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """What is left out of a pool, and how its problems get their levels."""

    ngram: int = 13
    """A problem that shares so many words in a row with an evaluation problem is left out. [GPT-3, arXiv:2005.14165,
    appendix C; rStar-Math's follow-ups and Qwen2.5-Math use 13 too]"""
    max_common_ngram: int | None = None
    """A run of words that is shared by more problems of the pool than this is a turn of phrase and no contamination (GPT-3:
    10); null: every one counts. [ours]"""
    levels: dict[str, str] = dataclasses.field(default_factory=dict)
    """`Problem.source` to the level of its problems; others keep what their file says."""
    pass_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    """Level to the least share of right answers among a problem's sampled ones that makes it one of this level: the
    highest bound it reaches counts. Problems without samples keep their level. [ours]"""
    max_pass_rate: float | None = None
    """Problems that are solved more often than this are left out: nothing is learned from them; null: none is. [ours]"""
    synthetic_sources: tuple[str, ...] = ()
    """`Problem.source` of problems that a model wrote, with the answers that it gave."""
    min_agreeing: int = 3
    """A synthetic problem is kept when at least so many sampled answers are equal, more than any others are, and are its
    own answer. [paper, section 4.1: 3 of 10]"""

    def __post_init__(self) -> None:
        for name in ("ngram", "min_agreeing"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        common = self.max_common_ngram
        require(common is None or common >= 1, "max_common_ngram", common, "at least 1, or null")
        for level, rate in self.pass_rates.items():
            require(0 <= rate <= 1, f"pass_rates.{level}", rate, "in [0, 1]")
        rate_or_none = self.max_pass_rate
        require(
            rate_or_none is None or 0 <= rate_or_none <= 1,
            "max_pass_rate",
            rate_or_none,
            "in [0, 1], or null",
        )

    @property
    def needs_samples(self) -> bool:
        """Whether a store of searched problems is needed."""
        return bool(self.pass_rates or self.synthetic_sources) or self.max_pass_rate is not None
