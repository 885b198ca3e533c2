"""Finished runs of rounds, one per seed, and what it took to make them: run here, or only read."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.watch import ProcessWatch
from rounds.artifact import Manifest, read_manifest, write_json
from rounds.driver import Progress, status
from rounds.recipe import load_rounds
from rounds.stages import stages_by_round

BEFORE, SCALING, WHOLE = "base", "scaling", "whole run"
"""Parts of a run's cost beside its rounds."""


@dataclass(frozen=True)
class Run:
    """A finished run of one seed, up to `last_round`."""

    seed: int
    folder: Path
    last_round: int

    @property
    def rounds(self) -> range:
        return range(1, self.last_round + 1)

    def manifest(self, stage: str) -> Manifest | None:
        return read_manifest(self.folder / stage)

    def summary(self, stage: str) -> dict[str, Any]:
        """Of a stage that every run has."""
        manifest = self.manifest(stage)
        assert manifest is not None, f"{self.folder / stage} is complete"
        return manifest.summary

    @property
    def scaling(self) -> str | None:
        """The stage of that name, if it is of the last round's models."""
        policy = self.manifest(f"round{self.last_round}/policy")
        for stage in (SCALING, f"round{self.last_round}/{SCALING}"):
            found = self.manifest(stage)
            if found is not None and policy is not None and found.inputs["policy"] == policy.fingerprint:
                return stage
        return None

    def seconds(self, *stages: str) -> float:
        return sum(manifest.seconds for stage in stages if (manifest := self.manifest(stage)) is not None)

    @cached_property
    def cost(self) -> dict[str, dict[str, float]]:
        """Part of the run to what was measured of it; empty for a run that nobody watched from its start."""
        path = cost_file(self.folder)
        found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
        return found


def finished_run(folder: Path, seed: int, last_round: int, recipe: str, settings: Sequence[str]) -> Run:
    """The run in `folder`, brought to its end first if it is not there yet."""
    settings = [f"seed={seed}", *settings]
    if read_manifest(folder / f"round{last_round}" / "report") is None:
        run_rounds(folder, last_round, recipe, settings)
    else:
        warn_if_made_otherwise(folder, last_round, recipe, settings)
    return Run(seed, folder, last_round)


def run_rounds(folder: Path, last_round: int, recipe: str, settings: Sequence[str]) -> None:
    """`rstar round N` in a process of its own, watched; what it took is kept if it began from nothing."""
    from_nothing = not folder.exists()
    command = [sys.executable, "-m", "rounds.cli", "round", str(last_round), "--run", str(folder)]
    command += ["--recipe", recipe, *(part for setting in settings for part in ("--set", setting))]

    def phase() -> str:
        if (folder / SCALING).exists():
            return SCALING
        begun = (f"round{index}" for index in range(last_round, 0, -1))
        return next((name for name in begun if (folder / name).exists()), BEFORE)

    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watch = ProcessWatch(process.pid, phase)
    failed = process.wait()
    taken, wall_s, after = watch.stop(), time.monotonic() - began, os.times()
    if failed:
        raise SystemExit(failed)
    if from_nothing:
        whole = {
            "wall_s": wall_s,
            "cpu_s": sum(after[2:4]) - sum(before[2:4]),
            "peak_bytes": max(part.peak_bytes for part in taken.values()),
        }
        parts = {name: dataclasses.asdict(part) for name, part in taken.items()}
        write_json(cost_file(folder), parts | {WHOLE: whole})


def cost_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cost.json")


def warn_if_made_otherwise(folder: Path, last_round: int, recipe: str, settings: Sequence[str]) -> None:
    """Say on stderr if a run that is only read differs from what these settings would make."""
    recipes = load_rounds(recipe, settings)
    by_round = stages_by_round(recipes[:last_round], complete=last_round == len(recipes))
    stages = [stage for one in by_round for stage in one if not stage.name.endswith("/report")]
    if stale := [one for one in status(folder, stages) if one.progress is not Progress.COMPLETE]:
        first = f"{stale[0].stage.name} is {stale[0].progress}: {stale[0].detail}".removesuffix(": ")
        print(f"{folder} is read as it was made, {len(stale)} stages otherwise than asked; {first}", file=sys.stderr)  # fmt: skip
