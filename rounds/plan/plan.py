"""The plan of a recipe: every stage of every round with its work, its time, its disk and its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rounds.plan.assumptions import Assumptions
from rounds.plan.hardware import BF16_BYTES, ModelShape, read_shape
from rounds.plan.memory import MemoryNeed, recipe_memory, search_memory
from rounds.plan.rates import GpuRates, Rates
from rounds.plan.workload import (
    SearchWork,
    TrainingWork,
    policy_training,
    ppm_training,
    round_search,
    search_work,
)
from rounds.recipe import PoolConfig, RoundRecipe
from rounds.stages import base_model
from rstar.config import Guidance, SearchConfig, greedy
from rstar.errors import ConfigError
from rstar.problems import read_problems

CHECKPOINT_BYTES = 12
"""Per parameter: float32 weights and two moments. Two checkpoints are kept while a training runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What one stage is expected to take. `price` is None without a price per GPU-hour."""

    name: str
    tokens: float
    """Sampled or trained on."""
    executions: float
    hours: float
    gpu_hours: float
    disk_gb: float
    price: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole of it."""

    recipe: str
    machine: str
    problems: int
    evaluation_problems: int
    stages: tuple[StagePlan, ...]
    memory: tuple[MemoryNeed, ...]
    peak_extra_gb: float
    """Disk for checkpoints, while trainings run."""
    assumed: Assumptions

    @property
    def total(self) -> StagePlan:
        return add("total", self.stages)

    def rounds(self) -> list[StagePlan]:
        """A sum per round, and of what belongs to none."""
        names = dict.fromkeys(stage.name.split("/")[0] for stage in self.stages)
        return [add(name, [one for one in self.stages if one.name.split("/")[0] == name]) for name in names]


def add(name: str, stages: Sequence[StagePlan]) -> StagePlan:
    """Several stages as one."""
    prices = [stage.price for stage in stages]
    return StagePlan(
        name=name,
        tokens=sum(one.tokens for one in stages),
        executions=sum(one.executions for one in stages),
        hours=sum(one.hours for one in stages),
        gpu_hours=sum(one.gpu_hours for one in stages),
        disk_gb=sum(one.disk_gb for one in stages),
        price=None if None in prices else sum(price for price in prices if price is not None),
    )


def make_plan(
    recipes: Sequence[RoundRecipe],
    rates: Rates,
    assumed: Assumptions,
    *,
    problems: int | None = None,
    evaluation_problems: int | None = None,
    price: float | None = None,
) -> Plan:
    """Plan every round of `recipes`. `problems` and `evaluation_problems` stand for files that are not there yet.

    Raises ConfigError for a model that nothing is known of or that does not fit on the GPUs, and for pools of unknown size.
    """
    planner = _Planner(recipes, rates, assumed, problems, evaluation_problems, price)
    return planner.plan()


class _Planner:
    def __init__(
        self,
        recipes: Sequence[RoundRecipe],
        rates: Rates,
        assumed: Assumptions,
        problems: int | None,
        evaluation_problems: int | None,
        price: float | None,
    ) -> None:
        first = recipes[0]
        self.recipes, self.rates, self.assumed, self.price = recipes, rates, assumed, price
        self.problems = count_problems(first.problems.train, problems, "problems")
        held_out = first.problems.evaluation
        missing = [file for file in held_out.files if not Path(file).is_file()]
        if evaluation_problems is None and missing:
            evaluation_problems = round(assumed.evaluation_problems)
        self.evaluated = count_problems(held_out, evaluation_problems, "evaluation problems")
        self.base = read_shape(base_model(first))
        self.stages: list[StagePlan] = []

    def plan(self) -> Plan:
        first, last = self.recipes[0], self.recipes[-1]
        self.search("base/evaluation", first, self.base, self._greedy(first))
        for recipe in self.recipes:
            self.round(recipe)
        trees = self.searched_problems(last) * last.evaluation.max_trajectories
        self.search(
            "scaling/searches", last, self.base, self._trees(trees, last.evaluation.search), guided=True
        )
        samples = self.searched_problems(last) * last.evaluation.num_samples
        self.search("scaling/samples", last, self.base, self._trees(samples, greedy(last.search)))
        memory = self._memory() if isinstance(self.rates, GpuRates) else []
        return Plan(
            recipe=first.name,
            machine=self.rates.machine,
            problems=self.problems,
            evaluation_problems=self.evaluated,
            stages=tuple(self.stages),
            memory=tuple(memory),
            peak_extra_gb=2 * CHECKPOINT_BYTES * self.base.parameters / 1e9,
            assumed=self.assumed,
        )

    def round(self, recipe: RoundRecipe) -> None:
        here, held_out = f"round{recipe.round_index}", self.searched_problems(recipe)
        searching = self.base if recipe.search_model is None else read_shape(Path(recipe.search_model))
        work = round_search(recipe, self.problems, self.assumed)
        guided = recipe.search.guidance is Guidance.PPM
        self.search(f"{here}/search", recipe, searching, work, guided=guided)
        policy = policy_training(recipe, self.problems, self.assumed)
        again = recipe.sft.gradient_checkpointing
        seconds = self.rates.policy_training_s(policy, self.base, recomputed=again)
        self.training(f"{here}/policy", policy, seconds)
        ppm = ppm_training(recipe, self.problems, self.assumed)
        seconds = self.rates.ppm_training_s(ppm, self.base, recomputed=recipe.ppm.gradient_checkpointing)
        self.training(f"{here}/ppm", ppm, seconds)
        self.search(f"{here}/evaluation", recipe, self.base, self._greedy(recipe))
        trees = self._trees(held_out * recipe.evaluation.num_trajectories, recipe.evaluation.search)
        for name in ("system", "ppm_evaluation")[: 1 if recipe.round_index == 1 else 2]:
            self.search(f"{here}/{name}", recipe, self.base, trees, guided=True)

    def search(
        self, name: str, recipe: RoundRecipe, model: ModelShape, work: SearchWork, *, guided: bool = False
    ) -> None:
        seconds = self.rates.search_s(
            work, model, guided=guided, rows=recipe.engine.max_batch_rows, context=self.context()
        )
        self._add(name, work.tokens, work.executions, seconds, work.nodes * self.assumed.bytes_per_node)

    def training(self, name: str, work: TrainingWork, seconds: float) -> None:
        self._add(name, work.tokens, 0.0, seconds, self.base.parameters * BF16_BYTES)

    def context(self) -> float:
        """Tokens before a candidate, in the mean."""
        return self.assumed.prompt_tokens + self.assumed.steps_per_solution * self.assumed.tokens_per_step / 2

    def searched_problems(self, recipe: RoundRecipe) -> int:
        """Held-out problems that the full system is evaluated on."""
        return sum(recipe.evaluation.problems.values()) or self.evaluated

    def _greedy(self, recipe: RoundRecipe) -> SearchWork:
        return self._trees(self.evaluated, greedy(recipe.search))

    def _trees(self, trees: float, search: SearchConfig) -> SearchWork:
        return search_work(trees, search.num_rollouts, search, self.assumed)

    def _add(self, name: str, tokens: float, executions: float, seconds: float, disk_bytes: float) -> None:
        gpu_hours = seconds / 3600 * self.rates.num_gpus
        self.stages.append(
            StagePlan(
                name=name,
                tokens=tokens,
                executions=executions,
                hours=seconds / 3600,
                gpu_hours=gpu_hours,
                disk_gb=disk_bytes / 1e9,
                price=None if self.price is None else gpu_hours * self.price,
            )
        )

    def _memory(self) -> list[MemoryNeed]:
        assert isinstance(self.rates, GpuRates)
        needs = []
        context = self.context()
        for recipe in self.recipes:
            searching = self.base if recipe.search_model is None else read_shape(Path(recipe.search_model))
            guided = recipe.search.guidance is Guidance.PPM
            per_engine = self.rates.gpus_per_engine(searching.parameters * BF16_BYTES * (1 + guided))
            rows = self.rates.batch_rows(
                searching, guided=guided, rows=recipe.engine.max_batch_rows, context=context
            )
            what = f"round {recipe.round_index} search, {searching.name}{' and PPM' if guided else ''}"
            needs.append(
                search_memory(
                    what, searching, self.rates.gpus, per_engine, guided=guided, rows=rows, context=context
                )
            )
        return [*needs, *recipe_memory(self.recipes[0], self.base, self.rates.gpus)]


def count_problems(pool: PoolConfig, given: int | None, what: str) -> int:
    """How many problems a pool has; `given` counts for files that are not there."""
    missing = [file for file in pool.files if not Path(file).is_file()]
    if given is not None:
        return given
    if missing:
        option = "--" + what.replace(" ", "-")
        raise ConfigError(
            f"{missing[0]} is not there to be counted; say how many {what} it will have: {option} 747000"
        )
    found = sum(pool.curriculum.values())
    for file in pool.files:
        found += sum(bool(problem.answer) for problem in read_problems(file).problems)
    return found
