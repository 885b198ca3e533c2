"""Where the search stops scaling: round 2 of the 7B recipe on 1, 8, 64 and 1,000 A100-40GB, simulated.

    python -m benchmarks.bench_scaling [--problems 747] [--shapes 120]

`--problems` are per GPU: with 747 the paper's pool is that of 1,000 GPUs.

Prints Markdown. The engine's times are the plan's roofline for Qwen2.5-Math-7B, a step in the sandbox takes what
`benchmarks.bench_sandbox` measured, trees have the plan's sizes. One worker is simulated expansion by expansion with several
numbers of trees at once; the cluster tree by tree. The writer's time per tree is measured here, on trees with the text of word
problems and about 500 nodes: all of it, what is left where several trees share one wait for the disk, and where workers also make
the Parquet parts.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.forest import grow_tree
from benchmarks.tables import markdown
from rounds.plan.assumptions import Assumptions
from rounds.plan.hardware import BF16_BYTES, Gpus, known_gpus, read_shape
from rounds.plan.rates import GpuRates
from rounds.recipe import load
from rounds.simulation.cluster import ClusterConfig, Job, Speed, measure_speed, simulate_cluster
from rounds.simulation.search import Machines, ServiceTimes
from rounds.simulation.shapes import Shape, random_shape
from rounds.simulation.stations import StepTime
from rstar.store import Store
from rstar.store.files import Layout
from rstar.store.journal import Journal, JournalHeader
from rstar.store.rows import TreeRows, to_rows
from rstar.tree import Tree

GPU = "A100-40GB"
IN_FLIGHT = (1, 4, 16, 48, 96, 192)
"""Trees at once that one worker is simulated with."""
WORKERS = (1, 8, 64, 1000)
TOGETHER = 16
"""Trees that a journal would take at once."""


def least_s(clock: Callable[[], float], call: Callable[[Tree], object], trees: list[Tree]) -> float:
    """Seconds of the tree that took least on this clock: what others do to the machine stays out."""
    times = []
    for tree in trees:
        began = clock()
        call(tree)
        times.append(clock() - began)
    return min(times)


@dataclass(frozen=True)
class WriterTimes:
    """Seconds per tree of one writer: everything; with one wait for the disk per `TOGETHER` trees; the journal's share of
    that. CPU time, and of the journal's append the wall time, because it waits for the disk."""

    everything_s: float
    together_s: float
    journal_s: float
    nodes: float


def measure_writer(trees: list[Tree]) -> WriterTimes:
    cpu = time.process_time
    made: dict[int, TreeRows] = {}

    def make(tree: Tree) -> None:
        made[id(tree)] = to_rows(tree, version=0, level="", source="", settings_hash="x", seconds=0.0)

    with tempfile.TemporaryDirectory() as folder:

        def store() -> float:
            began = cpu()
            with Store.create(Path(folder)).writer(round=1) as writer:
                for tree in trees:
                    writer.append(tree)
            return (cpu() - began) / len(trees)

        cpu_s = min(store() for _ in range(4))  # the first one imports
        least_s(cpu, make, trees)
        journal = Journal(Layout(Path(folder)).journal(999), JournalHeader(1, "x", {}))
        journal_cpu_s = least_s(cpu, lambda tree: journal.append(made[id(tree)]), trees)
        journal_s = least_s(time.perf_counter, lambda tree: journal.append(made[id(tree)]), trees)
        journal.close()
    waiting_s = max(0.0, journal_s - journal_cpu_s)
    nodes = sum(len(tree.nodes) for tree in trees) / len(trees)
    shared_s = waiting_s / TOGETHER
    return WriterTimes(cpu_s + waiting_s, cpu_s + shared_s, journal_cpu_s + shared_s, nodes)


def gpu_times(assumed: Assumptions) -> ServiceTimes:
    """Of one A100-40GB with the 7B policy, from the plan's roofline."""
    gpu = known_gpus()[GPU]
    rates = GpuRates(Gpus(1, gpu), assumed)
    model = read_shape(Path("models/Qwen2.5-Math-7B"))
    context = assumed.prompt_tokens + assumed.steps_per_solution * assumed.tokens_per_step / 2
    read_s = 1 / (gpu.bandwidth_gb_s * 1e9 * assumed.bandwidth_share)
    row_s = context * model.kv_bytes_per_token * read_s + rates.pass_s(model, 1)
    prefix = (1 - assumed.cached_share) * context
    return ServiceTimes(
        step=StepTime(base_s=model.parameters * BF16_BYTES * read_s, row_s=row_s),
        execution_s=assumed.execution_cpu_s,
        loop_s=0.001,
        write_s=0.0,
        prefix_tokens=prefix * rates.pass_s(model, 1) / row_s,  # in rows' time
    )


def shapes(count: int, assumed: Assumptions, rollouts: int, candidates: int) -> list[Shape]:
    chance = random.Random(0)
    return [
        random_shape(
            chance, num_rollouts=rollouts, num_candidates=candidates, depth=assumed.steps_per_solution,
            tokens_per_step=assumed.tokens_per_step, executed_share=assumed.executed_share * (1 - assumed.equal_share),
            guided=False,
        )
        for _ in range(count)
    ]  # fmt: skip


def jobs(count: int, alone: list[float], unsolved: float, seed: int = 0) -> list[Job]:
    """A tree per problem; as many rollouts more where it stays unsolved (round 2: 16, then 32)."""
    chance = random.Random(seed)
    drawn = chance.choices(alone, k=count)
    return [(seconds, seconds) if chance.random() < unsolved else (seconds,) for seconds in drawn]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=747)
    parser.add_argument("--shapes", type=int, default=120)
    arguments = parser.parse_args()
    assumed, recipe = Assumptions(), load("rstar-math-7b", 2)
    writer = measure_writer([grow_tree(f"train-{i}", 7, num_rollouts=20) for i in range(40)])
    print(
        f"writer, ms per tree of {writer.nodes:.0f} nodes: everything {1e3 * writer.everything_s:.1f}, with one wait "
        f"for the disk per {TOGETHER} {1e3 * writer.together_s:.1f}, of that the journal {1e3 * writer.journal_s:.1f}\n"
    )
    searched = shapes(arguments.shapes, assumed, recipe.search.num_rollouts, recipe.search.num_candidates)
    machines = Machines(max_rows=recipe.engine.max_batch_rows, cores=assumed.cores_per_gpu)
    speed, alone = measure_speed(searched, machines, gpu_times(assumed), IN_FLIGHT)
    rows = [[str(n), f"{n * speed(n) / speed.capacity:.0%}", f"{1 / speed(n):.1f}"] for n in IN_FLIGHT]
    print(markdown("One worker", ["trees at once", "of its capacity", "times as long per tree"], rows))
    unsolved = 1 - assumed.coverage["2"]
    print(table(lambda workers: jobs(workers * arguments.problems, alone, unsolved), speed, writer))


def table(work: Callable[[int], list[Job]], speed: Speed, writer: WriterTimes) -> str:
    base = ClusterConfig(num_workers=1, trees_in_flight=96, write_s=writer.everything_s)
    variants = [(f"{count:,}, as it is", replace(base, num_workers=count)) for count in WORKERS]
    many = variants[-1][1]
    longest = replace(many, longest_first=True)
    variants += [
        ("no barriers between passes", replace(many, barriers=False)),
        ("the longest trees first", longest),
        (f"and {TOGETHER} trees per wait for the disk", replace(longest, write_s=writer.together_s)),
        ("and parts made by workers", replace(longest, write_s=writer.journal_s)),
    ]
    rows = []
    for name, config in variants:
        found = simulate_cluster(work(config.num_workers), speed, config)
        rows.append([
            name, f"{found.makespan_s / 3600:,.1f}", f"{max(found.makespan_s, found.written_s) / 3600:,.1f}", f"{found.utilisation:.1%}",
            f"{found.tail_s / 3600:.2f}", f"{found.writer_utilisation:.0%}",
        ])  # fmt: skip
    header = ["GPUs", "searched, h", "written, h", "engines used", "last tail, h", "writer busy"]
    return markdown("Round 2, as many problems per GPU", header, rows)


if __name__ == "__main__":
    main()
