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

PPM_MATH: dict[int, float] = {1: 0.752, 2: 0.841, 3: 0.852, 4: 0.870}
"""Round to accuracy on MATH of policy r1 searching with that round's preference model: table 4."""

SYSTEM_MATH: dict[int, float] = {1: 0.752, 2: 0.866, 3: 0.870, 4: 0.894}
"""Round to accuracy on MATH of that round's policy searching with that round's preference model: table 6."""

SYSTEM_MATH_64 = 0.900
"""Accuracy on MATH of round 4's system with 64 trajectories."""

TRAINING_SETS_MATH: dict[str, float] = {"random": 0.724, "rejection": 0.734, "top_mean_q": 0.784}
"""What the policy is trained on (random correct trajectories, rejection sampling, those with the highest mean Q) to its
pass@1 on MATH: table 7."""

VALUE_MODELS_MATH: dict[str, float] = {"orm": 0.826, "pqm": 0.882, "ppm": 0.894}
"""Value model (ORM: best of N; the others: search) to accuracy on MATH: table 8."""
