"""A finished run, read for experiments on it: settings, trees and problems, as its stages left them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppm.config import PairConfig, PPMConfig
from rounds.artifact import STORE, read_manifest
from rounds.pools import EVALUATION
from rounds.training import earlier as earlier_input
from rstar.config import build
from rstar.problems import Problem, read_problems
from rstar.store import Store
from rstar.tree import Tree


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run, and which of its rounds has its preference model trained again."""

    folder: Path
    round_index: int

    def settings(self, stage: str) -> dict[str, Any]:
        manifest = read_manifest(self.folder / stage)
        assert manifest is not None, f"{self.folder / stage} is complete"
        return manifest.settings

    @property
    def here(self) -> str:
        return f"round{self.round_index}"

    @property
    def learned_from(self) -> list[int]:
        """The rounds whose pairs the preference model was trained on, its own first."""
        manifest = read_manifest(self.folder / self.here / "ppm")
        assert manifest is not None, f"{self.folder / self.here} is complete"
        earlier = range(1, self.round_index)
        return [self.round_index, *(i for i in earlier if earlier_input("pairs", i) in manifest.inputs)]

    def trees(self, round_index: int) -> list[Tree]:
        return list(Store(self.folder / f"round{round_index}" / "search" / STORE).trees(round_index))

    @property
    def pairs(self) -> PairConfig:
        return build(PairConfig, self.settings(f"{self.here}/pairs")["pairs"])

    @property
    def ppm(self) -> PPMConfig:
        return build(PPMConfig, self.settings(f"{self.here}/ppm")["ppm"])

    def held_out(self, per_level: int) -> list[Problem]:
        """The first so many held-out problems of each level."""
        by_level: dict[str, list[Problem]] = defaultdict(list)
        for problem in read_problems(self.folder / "problems" / EVALUATION).problems:
            by_level[problem.level].append(problem)
        return [problem for level in by_level.values() for problem in level[:per_level]]
