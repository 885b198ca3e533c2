"""A short real run on this machine, which replaces assumed rates and sizes by measured ones.

The recipe's own stages over a sample of its problems: search with the base model, both trainings on what was found, and a
search guided by the two new models. A round that another model would search (`search_model`) is searched with the base here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ppm.opening import open_scorer
from rounds.artifact import STORE
from rounds.health import search_health
from rounds.machine import describe_machine
from rounds.plan.assumptions import Assumptions
from rounds.plan.rates import MeasuredRates
from rounds.plan.workload import depth_of
from rounds.pools import EVALUATION, TRAIN, make_problems
from rounds.recipe import RoundRecipe
from rounds.stages import base_model
from rounds.training import make_pairs, make_sft_set
from rstar.campaign import search_into_store
from rstar.config import Guidance
from rstar.errors import StageError
from rstar.problems import Problem, read_problems, write_problems
from rstar.prompts import FORMATS, render_prompt
from rstar.searcher import OpenValue
from rstar.seeds import rng
from rstar.store import Store

NUM_PROBLEMS = 48
PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured: how fast, and how large things are. `measured`: the assumptions that were replaced."""

    rates: MeasuredRates
    assumed: Assumptions
    measured: dict[str, Any]
    seconds: float


def calibrate(
    recipe: RoundRecipe,
    assumed: Assumptions,
    *,
    num_problems: int = NUM_PROBLEMS,
    console: Console | None = None,
) -> Calibration:
    """Run a sample of the recipe's problems through its first round, and through a guided search; minutes.

    `recipe` is the first round's. Raises ConfigError for a base model or problem files that are not there, StageError where
    the sample is too small for something to be trained on: more problems help.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rstar-plan-") as folder:
        rates, measured = _Calibrator(
            recipe, assumed, Path(folder), num_problems, console or Console(stderr=True)
        ).run()
    replaced = dataclasses.replace(assumed, **measured)
    return Calibration(rates, replaced, measured, time.monotonic() - began)


class _Calibrator:
    def __init__(
        self, recipe: RoundRecipe, assumed: Assumptions, folder: Path, num_problems: int, console: Console
    ) -> None:
        self.recipe = dataclasses.replace(recipe, search_model=None, search_engine=None, round_index=1)
        self.assumed, self.folder, self.num_problems, self.console = assumed, folder, num_problems, console
        self.base = base_model(recipe)

    def run(self) -> tuple[MeasuredRates, dict[str, Any]]:
        from policy.sft import train as train_policy
        from policy.sft_table import read_examples
        from ppm.pair_table import read_groups
        from ppm.train import train as train_ppm

        recipe, folder = self.recipe, self.folder
        problems = self._sample()
        first = self._search("search", problems, self.base, guided=False)
        inputs = {name: folder / name for name in ("problems", "search", "sft_set", "pairs")} | {
            "base": self.base
        }
        for path in inputs.values():
            path.mkdir(parents=True, exist_ok=True)
        make_sft_set(recipe, inputs["sft_set"], inputs)
        examples = read_examples(inputs["sft_set"] / STORE, 1)
        policy = train_policy(
            examples, base=self.base, out=folder / "policy", config=recipe.sft, seed=recipe.seed
        )
        made = make_pairs(recipe, inputs["pairs"], inputs)
        groups = read_groups(inputs["pairs"] / STORE, 1)
        ppm = train_ppm(
            groups, base=folder / "policy", out=folder / "ppm", config=recipe.ppm, seed=recipe.seed
        )
        scorer = partial(open_scorer, folder / "ppm", recipe.engine, max_length=recipe.ppm.max_length)
        guided = self._search("guided", problems, folder / "policy", guided=True, open_value=scorer)
        rates = MeasuredRates(
            machine=describe_machine(),
            search_tokens_per_s=first["tokens"] / first["seconds"],
            guided_tokens_per_s=guided["tokens"] / guided["seconds"],
            policy_examples_per_s=policy.num_examples * recipe.sft.epochs / policy.train_s,
            ppm_pairs_per_s=ppm.num_pairs * recipe.ppm.epochs / ppm.train_s,
            start_s=(first["start_s"] + guided["start_s"]) / 2,
        )
        return rates, self._sizes(made, examples=len(examples))

    def _sample(self) -> list[Problem]:
        """Problems drawn from the recipe's pool, every level with its share."""
        pools = self.folder / "pools"
        pools.mkdir()
        make_problems(self.recipe, pools, {})
        pool = list(read_problems(pools / TRAIN).problems)
        chosen = set(
            rng(self.recipe.seed, "calibration").sample(range(len(pool)), min(self.num_problems, len(pool)))
        )
        sample = [problem for position, problem in enumerate(pool) if position in chosen]
        (self.folder / "problems").mkdir()
        write_problems(self.folder / "problems" / TRAIN, sample)
        (pools / EVALUATION).rename(self.folder / "problems" / EVALUATION)
        return sample

    def _search(
        self,
        name: str,
        problems: Sequence[Problem],
        model: Path,
        *,
        guided: bool,
        open_value: OpenValue | None = None,
    ) -> dict[str, float]:
        """Its numbers at the end, and `start_s`: before it began."""
        folder = self.folder / name
        folder.mkdir()
        search = dataclasses.replace(
            self.recipe.search, guidance=Guidance.PPM if guided else Guidance.TERMINAL
        )
        began = time.monotonic()
        faults = asyncio.run(
            search_into_store(
                problems, model=model, store=Store.create(folder / STORE), round_index=1,
                label=f"calibration, {name}", search=search, sandbox=self.recipe.sandbox,
                grading=self.recipe.grading, engine=self.recipe.engine, prompt_format=self.recipe.prompt_format,
                seed=self.recipe.seed, open_value=open_value, progress_file=folder / PROGRESS, console=self.console,
            )
        )  # fmt: skip
        if faults:
            raise StageError(f"the calibration's search failed: {faults[0]}")
        numbers: dict[str, float] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        return {**numbers, "start_s": max(0.0, time.monotonic() - began - numbers["seconds"])}

    def _sizes(self, pairs: dict[str, Any], *, examples: int) -> dict[str, Any]:
        """What the sample's trees say in place of the assumptions."""
        from rstar.backends.loading import read_tokenizer

        store = Store(self.folder / "search" / STORE)
        trees = list(store.trees(1))
        health = search_health(trees, {})
        (summary,) = store.summary()
        solved = sum(level.solved for level in health.coverage.values())
        encode = partial(read_tokenizer(self.base).encode, add_special_tokens=False)
        candidates = health.nodes + health.merged
        prompt, search = FORMATS[self.recipe.prompt_format], self.recipe.search
        return {
            "prompt_tokens": statistics.mean(
                len(encode(render_prompt(prompt, tree.question))) for tree in trees
            ),
            "steps_per_solution": depth_of(
                health.expansions / len(trees), search.num_rollouts, search.num_candidates
            ),
            "tokens_per_step": health.tokens / candidates,
            "equal_share": health.merged / candidates,
            "executed_share": health.executions / health.nodes,
            "coverage": {
                index: max(share, solved / len(trees)) for index, share in self.assumed.coverage.items()
            },
            "solutions_per_problem": examples / max(1, solved),
            "pairs_per_tree": sum(pairs["pairs"].values()) / len(trees),
            "bytes_per_node": summary.num_bytes / health.nodes,
        }
