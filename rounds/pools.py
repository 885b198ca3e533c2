"""The stage `problems`: what is searched and trained on, and what is held out, as files; a question in both is refused."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rounds.curriculum import Level, Split, generate
from rounds.preparation.text import normalised
from rounds.recipe import PoolConfig, RoundRecipe
from rstar.errors import ConfigError
from rstar.problems import Problem, read_problems, write_problems

TRAIN, EVALUATION = "train.jsonl", "evaluation.jsonl"


def make_problems(recipe: RoundRecipe, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Write the two pools; refuse a question that stands in both."""
    pools = {
        TRAIN: _pool(recipe.problems.train, Split.TRAIN, recipe.seed),
        EVALUATION: _pool(recipe.problems.evaluation, Split.EVAL, recipe.seed),
    }
    for name, pool in pools.items():
        if not pool:
            raise ConfigError(f"problems.{Path(name).stem} is empty; give curriculum counts or files")
        repeated = [problem_id for problem_id, n in Counter(p.id for p in pool).items() if n > 1]
        if repeated:
            raise ConfigError(
                f"problems.{Path(name).stem}: {len(repeated)} ids stand twice, {repeated[0]} among them"
            )
        write_problems(folder / name, pool)
    seen = {normalised(problem.question) for problem in pools[TRAIN]}
    shared = [p for p in pools[EVALUATION] if normalised(p.question) in seen]
    if shared:
        raise ConfigError(
            f"{len(shared)} evaluation questions are also training questions, {shared[0].id} among them; take them "
            "out of the training files: rstar problems prepare --against"
        )
    return {Path(name).stem: _by_level(pool) for name, pool in pools.items()} | {"contaminated": len(shared)}


def _pool(config: PoolConfig, split: Split, seed: int) -> list[Problem]:
    problems: list[Problem] = []
    for name, count in config.curriculum.items():
        problems += generate(split, Level(name), count, seed)
    for file in config.files:
        problems += [p for p in read_problems(Path(file)).problems if p.answer]
    return problems


def file_hashes(recipe: RoundRecipe) -> dict[str, str]:
    """SHA-256 of each problem file of the recipe. Raises ConfigError for one that cannot be read."""
    hashes = {}
    for file in (*recipe.problems.train.files, *recipe.problems.evaluation.files):
        try:
            hashes[file] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"problems: {file} cannot be read: {error.strerror}") from None
    return hashes


def _by_level(problems: Sequence[Problem]) -> dict[str, int]:
    return dict(Counter(problem.level for problem in problems))
