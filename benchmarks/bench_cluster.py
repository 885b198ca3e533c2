"""Search over Ray workers: speed-up, what a tree costs the driver, what a worker's death costs.

    python -m benchmarks.bench_cluster [--trees 160] [--in-flight 8] [--latency 0.25] [--large 24]

Prints Markdown. The policy is scripted (`ChainWorld`) and bound by latency: each request takes `--latency` seconds and no
CPU, as a GPU elsewhere would, so that several workers can share this machine. Programs run in each worker's own process.

- Speed-up: the same trees on one worker and on two, each with `--in-flight` trees at once; seconds from the first task to
  the last tree, engines open before. That both found the same trees is checked.
- Driver: CPU time of this process per tree: the queue and Ray (tasks out, trees in), and the store's writer; for small
  trees, and for `--large` large ones (policy without latency). All threads of the process count, Ray's too.
- Recovery: a worker is killed in mid-run; how many of its trees were searched again.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.tables import markdown
from rstar.cluster import ClusterSearcher
from rstar.config import SearchConfig
from rstar.evaluation import SearchCounts
from rstar.problems import Problem
from rstar.search import SearchResult
from rstar.searcher import SearchSetup, TreeTask
from rstar.store import Store
from rstar.tree import Tree
from tests.rstar.cluster.nodes import nodes
from tests.rstar.cluster.scripted import WORLD, Script

SMALL = SearchConfig(num_rollouts=3, num_candidates=3)
LARGE = SearchConfig(num_rollouts=48, num_candidates=12)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One search on a cluster, engines open before."""

    results: list[SearchResult]
    seconds: float
    driver_s: float
    """CPU."""
    writer_s: float
    """CPU, and no part of the driver's."""

    @property
    def trees(self) -> dict[str, Tree]:
        return {result.tree.name: result.tree for result in self.results}


async def measure(
    address: str, script: Script, search: SearchConfig, problems: Sequence[Problem], in_flight: int
) -> Measured:
    """Search a tree for each problem, store it, and see what it took."""
    setup = SearchSetup(
        open_engines=script.engines, open_value=None, model=script.folder, search=search, prompt_format="bare",
        max_trees_in_flight=in_flight, num_gpus=0,
    )  # fmt: skip
    tasks = [
        TreeTask(
            tree=Tree(problem_id=problem.id, question=problem.question), reference=problem.answer,
            num_rollouts=search.num_rollouts,
        )
        for problem in problems
    ]  # fmt: skip
    searcher = await ClusterSearcher.open(address, setup)
    results: list[SearchResult] = []
    try:
        began, cpu = time.monotonic(), time.process_time()
        async for result in searcher.search(tasks, SearchCounts()):
            results.append(result)
        seconds, driver_s = time.monotonic() - began, time.process_time() - cpu
    finally:
        await searcher.aclose()
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder)).writer(round=1) as writer:
        for result in results:
            writer.append(result.tree, seconds=result.seconds)
    return Measured(results=results, seconds=seconds, driver_s=driver_s, writer_s=time.process_time() - cpu)


def redone(script: Script) -> tuple[int, int]:
    """Trees that the killed worker had begun, and how many of them were begun by others as well, later."""
    (pid,) = script.noted("killed")
    starts = [line.split() for line in script.noted("started")]
    last = max(index for index, (by, _) in enumerate(starts) if by == pid)
    own = {tree for by, tree in starts if by == pid}
    again = {tree for by, tree in starts[last + 1 :] if by != pid and tree in own}
    return len(own), len(again)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trees", type=int, default=160)
    parser.add_argument("--in-flight", type=int, default=8, help="trees at once on each worker")
    parser.add_argument("--latency", type=float, default=0.25, help="seconds per request of the policy")
    parser.add_argument("--large", type=int, default=24, help="how many large trees")
    options = parser.parse_args()
    problems = WORLD.problems(options.trees)
    found: dict[int, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Script(folder=Path(folder), latency_s=options.latency)
        run = partial(measure, problems=problems, search=SMALL, in_flight=options.in_flight)
        with nodes(1) as address:
            found[1] = asyncio.run(run(address, script))
        with nodes(2) as address:
            found[2] = asyncio.run(run(address, script))
            assert found[1].trees == found[2].trees
            large = asyncio.run(
                measure(
                    address,
                    replace(script, latency_s=0.0),
                    LARGE,
                    problems[: options.large],
                    options.in_flight,
                )
            )
            (Path(folder) / "killed-run").mkdir()
            deadly = replace(script, folder=Path(folder) / "killed-run", kill_at=5 * options.in_flight)
            after_death = asyncio.run(run(address, deadly))
            assert after_death.trees == found[1].trees
        begun, again = redone(deadly)
    rows = [
        [str(n), f"{one.seconds:.1f}", f"{found[1].seconds / one.seconds:.2f}"] for n, one in found.items()
    ]
    print(markdown("Speed-up", ("workers", "seconds", "speed-up"), rows))
    costs = []
    for name, one in (("small", found[2]), ("large", large)):
        size = statistics.mean(len(tree.nodes) for tree in one.trees.values())
        count = len(one.results)
        costs.append([
            name, str(count), f"{size:.0f}", f"{1e3 * one.driver_s / count:.2f}", f"{1e3 * one.writer_s / count:.2f}",
            f"{1e6 * (one.driver_s + one.writer_s) / count / size:.1f}",
        ])  # fmt: skip
    header = (
        "trees",
        "count",
        "nodes",
        "queue and Ray, ms CPU per tree",
        "writer, ms CPU per tree",
        "both, µs per node",
    )
    print(markdown("What a tree costs the driver", header, costs))
    print(
        markdown(
            "A worker killed in mid-run",
            ("trees begun on it", "of those searched again", "trees in flight on it at most"),
            [[str(begun), str(again), str(options.in_flight)]],
        )
    )


if __name__ == "__main__":
    main()
