"""vLLM under a search: how busy it is kept, how much comes from its prefix cache, and beside a lock-step scheduler.

    python -m benchmarks.bench_vllm [--trees 128] [--rollouts 3] [--rows 128] [--repeats 3]

Prints Markdown. Real searches of the embedded model over held-out problems of the curriculum, on the real vLLM (its CPU
build, where there is no GPU) with the real sandbox; one engine for the policy, one for a preference model. An engine's
tokens per step, and per CPU second of its process, say how full its batches are, however busy the machine is otherwise.

A first search, with cold caches, gives the share of prompt tokens that came from the prefix cache (a block has 32 tokens on
a CPU): of the policy those of all candidates' prefixes, of the preference model those before the steps that it scores. It
is the embedded model with a random head, on which that share does not depend.

The other lines then run on one engine that has all prefixes cached, so only scheduling tells them apart, and are medians
of `--repeats`. `plain` is the engine's throughput given the very requests of the search all at once. "While trees are left"
ends when the last tree starts; the rest is the tail, in which too few trees are left, whoever schedules them. The lock-step
scheduler (`benchmarks.lockstep`) searches the same trees in batches of as many as the asynchronous search has in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.lockstep import search_in_lockstep
from ppm.vllm_scorer import VLLMScorer
from rounds.base_model import BASE_MODEL
from rounds.curriculum import Level, Split, generate
from rounds.curriculum.generator import exercises
from rstar.backends.stats import EngineStats
from rstar.backends.vllm.config import VLLMConfig
from rstar.backends.vllm.policy import VLLMPolicy
from rstar.config import Guidance, SearchConfig
from rstar.demonstrations import Demonstration
from rstar.evaluation import Engines
from rstar.problems import Problem
from rstar.prompts import BARE, PromptFormat
from rstar.protocols import Candidate, ProposeRequest, SamplingConfig
from rstar.sandbox import SandboxConfig, SandboxPool
from rstar.search import SearchTask, search_trees
from rstar.steps import CODE
from rstar.tree import Tree
from tests.rstar.fakes import TextJudge

CONTEXT = 1024
"""Of the copy of the embedded model that is served: with demonstrations in front its own 512 tokens are too few."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What one engine did."""

    stats: EngineStats
    cpu_s: float
    wall_s: float

    trees: dict[str, Tree] = dataclasses.field(default_factory=dict)

    @property
    def tokens_per_step(self) -> float:
        return self.stats.generated_tokens / self.stats.steps

    @property
    def tokens_per_cpu_s(self) -> float:
        return self.stats.generated_tokens / self.cpu_s


class RecordingPolicy(VLLMPolicy):
    """Keeps the requests."""

    requests: list[ProposeRequest]

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        self.requests.append(request)
        return await super().propose(request)

    def cpu_s(self) -> float:
        """Of the engine's process so far."""
        (pid,) = self._pool.pids
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


class Clock:
    """What the policy's engine does from now on."""

    def __init__(self, policy: RecordingPolicy) -> None:
        self._policy = policy
        self._begun = policy.stats(), policy.cpu_s(), time.perf_counter()

    def read(self, trees: dict[str, Tree] | None = None) -> Measured:
        stats, cpu_s, wall_s = self._begun
        return Measured(
            stats=self._policy.stats() - stats, cpu_s=self._policy.cpu_s() - cpu_s,
            wall_s=time.perf_counter() - wall_s, trees=trees or {},
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """The engines, and what is searched."""

    policy: RecordingPolicy
    value: VLLMScorer
    sandbox: SandboxPool
    problems: Sequence[Problem]
    config: SearchConfig

    @property
    def engines(self) -> Engines:
        return Engines(policy=self.policy, sandbox=self.sandbox, value=self.value)

    def tasks(self, at_start: Callable[[], None] = lambda: None) -> Iterator[SearchTask]:
        for problem in self.problems:
            at_start()
            tree = Tree(problem_id=problem.id, question=problem.question)
            yield SearchTask(tree=tree, judge=TextJudge(problem.answer))

    async def search(self, in_flight: int, prompt: PromptFormat = BARE) -> tuple[Measured, Measured]:
        """The whole search, and it until its last tree started."""
        clock = Clock(self.policy)
        trees: dict[str, Tree] = {}
        while_left: list[Measured] = []

        def at_start() -> None:
            while_left[:] = [clock.read()]

        found = search_trees(
            self.tasks(at_start), self.engines, self.config, format=prompt, max_trees_in_flight=in_flight
        )
        async for result in found:
            assert not result.fault, result.fault
            trees[result.tree.problem_id] = result.tree
        return clock.read(trees), while_left[0]

    async def lockstep(self, batch: int) -> Measured:
        clock, tasks = Clock(self.policy), list(self.tasks())
        for at in range(0, len(tasks), batch):
            await search_in_lockstep(tasks[at : at + batch], self.engines, self.config)
        return clock.read({task.tree.problem_id: task.tree for task in tasks})

    async def plain(self, requests: Sequence[ProposeRequest]) -> Measured:
        clock = Clock(self.policy)
        await asyncio.gather(*map(self.policy.propose, requests))
        return clock.read()


def served_model(folder: Path) -> Path:
    """The embedded model with a longer context."""
    model = folder / "policy"
    shutil.copytree(BASE_MODEL, model)
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT
    (model / "config.json").write_text(json.dumps(config))
    return model


def preference_model(policy: Path, folder: Path) -> Path:
    """The policy's trunk with a random head."""
    import torch
    from transformers import AutoTokenizer

    from ppm.config import ScoreBound
    from ppm.model import start_from

    model = start_from(policy, ScoreBound.TANH)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.classifier.score.weight, std=0.3, generator=generator)
    model.classifier.save_pretrained(folder / "ppm")
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder / "ppm")
    return folder / "ppm"


def with_demonstrations(count: int = 2) -> PromptFormat:
    """The embedded model's format with solved training problems in front."""
    shown = []
    for exercise, _ in zip(exercises(Split.TRAIN, Level.MEDIUM, 0), range(count), strict=False):
        *code, answer = [step.text for step in exercise.demonstration()]
        solution = "\n".join((CODE, *code, answer))
        shown.append(Demonstration(question=exercise.problem.question, solution=solution))
    return dataclasses.replace(BARE, demonstrations=tuple(shown))


def middle(runs: Sequence[Measured]) -> Measured:
    """The run whose CPU time is the median."""
    return sorted(runs, key=lambda run: run.cpu_s)[len(runs) // 2]


def saturation(name: str, found: Measured, plain: Measured) -> str:
    per_step = found.tokens_per_step / plain.tokens_per_step
    per_cpu_s = found.tokens_per_cpu_s / plain.tokens_per_cpu_s
    return (
        f"| {name} | {found.stats.generated_tokens:,} | {found.stats.steps:,} | {found.tokens_per_step:.1f} "
        f"| {found.tokens_per_cpu_s:,.0f} | {per_step:.1%} | {per_cpu_s:.1%} |"
    )


async def measure(bench: Bench, arguments: argparse.Namespace) -> None:
    rows, candidates = arguments.rows, bench.config.num_candidates
    cold, _ = await bench.search(arguments.in_flight)
    requests = list(bench.policy.requests)
    print("### Share of prompt tokens from the prefix cache\n")
    print("| search | policy | preference model |")
    print("|---|---|---|")
    print(f"| without a preference model | {cold.stats.cache_hit_share:.1%} | |", flush=True)
    held_out = generate(Split.EVAL, Level.MEDIUM, max(8, len(bench.problems) // 4), 1)
    guided = dataclasses.replace(
        bench, problems=held_out, config=dataclasses.replace(bench.config, guidance=Guidance.PPM)
    )
    for name, prompt in (
        ("with one", BARE),
        ("with one, two demonstrations in front", with_demonstrations()),
    ):
        before = bench.value.stats()
        found, _ = await guided.search(arguments.in_flight, prompt)
        value = bench.value.stats() - before
        print(f"| {name} | {found.stats.cache_hit_share:.1%} | {value.cache_hit_share:.1%} |", flush=True)

    filling = max(1, rows // candidates)
    shares = (filling, 2 * filling, arguments.in_flight)
    plains: list[Measured] = []
    searches: dict[int, list[tuple[Measured, Measured]]] = {count: [] for count in shares}
    locked: dict[int, list[Measured]] = {count: [] for count in shares}
    for _ in range(arguments.repeats):
        plains.append(await bench.plain(requests))
        for count in searches:
            searches[count].append(await bench.search(count))
            locked[count].append(await bench.lockstep(count))
    plain = middle(plains)
    print("\n### Saturation\n")
    print(
        "| engine | tokens | steps | tokens per step | per CPU second | of plain: per step | per CPU second |"
    )
    print("|---|---|---|---|---|---|---|")
    print(saturation("plain: all requests at once", plain, plain))
    for count, runs in searches.items():
        name = f"search, {count} trees in flight"
        print(saturation(f"{name}, while trees are left", middle([left for _, left in runs]), plain))
        print(saturation(f"{name}, whole run", middle([whole for whole, _ in runs]), plain), flush=True)
    print("\n### Beside a lock-step scheduler\n")
    print(
        "| trees at once | engine steps, ours | lock-step | ratio | CPU s, ours | lock-step | ratio | same trees |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for count in shares:
        ours, theirs = middle([whole for whole, _ in searches[count]]), middle(locked[count])
        same = sum(ours.trees[name].nodes == tree.nodes for name, tree in theirs.trees.items())
        print(
            f"| {count} | {ours.stats.steps:,} | {theirs.stats.steps:,} | {theirs.stats.steps / ours.stats.steps:.2f} "
            f"| {ours.cpu_s:.1f} | {theirs.cpu_s:.1f} | {theirs.cpu_s / ours.cpu_s:.2f} | {same} of {len(ours.trees)} |",
            flush=True,
        )


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    model = served_model(folder)
    half = arguments.trees // 2
    problems = [
        *generate(Split.EVAL, Level.EASY, half, 0), *generate(Split.EVAL, Level.MEDIUM, arguments.trees - half, 0)
    ]  # fmt: skip
    config = SearchConfig(
        num_rollouts=arguments.rollouts, num_candidates=8, sampling=SamplingConfig(max_step_tokens=128)
    )
    print(
        f"{len(problems)} trees, {config.num_rollouts} rollouts of {config.num_candidates} candidates, "
        f"at most {arguments.rows} decoded at once\n"
    )
    vllm = VLLMConfig(kv_cache_mb=arguments.kv_cache_mb)
    policy = RecordingPolicy(model, vllm, max_batch_rows=arguments.rows)
    policy.requests = []
    value = VLLMScorer(preference_model(model, folder), vllm, max_batch_rows=arguments.rows)
    sandbox = SandboxPool(SandboxConfig())
    try:
        await asyncio.gather(sandbox.start(), policy.start(), value.start())
        bench = Bench(policy=policy, value=value, sandbox=sandbox, problems=problems, config=config)
        await measure(bench, arguments)
    finally:
        await asyncio.gather(value.aclose(), policy.aclose(), sandbox.aclose())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("trees", 128), ("rollouts", 3), ("rows", 128), ("in-flight", 64), ("repeats", 3), ("kv-cache-mb", 1024),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
