"""Figures of the rStar-Math paper (arXiv:2501.04519), shown beside ours in every report. Shares in [0, 1].

They are of other problems (747 thousand from NuminaMath and MetaMath) and other models (DeepSeek-Coder-V2-Instruct as
bootstrap, then 7B policies), so they say what the method did there, not what it must do here.
"""

from __future__ import annotations

COVERAGE: dict[int, dict[str, float]] = {
    1: {"all": 0.6017, "easy": 0.9661, "medium": 0.6736, "olympiad": 0.2099},
    2: {"all": 0.6660, "easy": 0.9788, "medium": 0.6740, "olympiad": 0.5604},
    3: {"all": 0.7786, "easy": 0.9815, "medium": 0.8869, "olympiad": 0.6216},
    4: {"all": 0.9025, "easy": 0.9815, "medium": 0.9453, "olympiad": 0.8058},
}
"""Round to level to share of training problems with a correct trace: table 2."""

POLICY_MATH: dict[int, float] = {0: 0.588, 1: 0.696, 2: 0.736, 3: 0.758, 4: 0.784}
"""Round (0: base) to pass@1 of the policy alone on MATH: table 3."""
