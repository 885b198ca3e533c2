"""The transformers back-end in a search-like load, beside plain batched `generate` of the same model.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_transformers [MODEL] [--replicas 2] [--trees 64] [--repeats 3]

The load: `--trees` trees in flight; each asks for 8 candidates of 10 to 40 tokens (`max_step_tokens` is drawn, so that
the load depends little on what the model writes), continues one of them with two tokens of glue, six levels deep, from
a prompt of about 80 tokens; prefixes so grow to about 250 tokens.
`generate` gets the very prefixes and numbers of tokens that the back-end met, in as many processes, each candidate a row
of a left-padded batch in the best size of those tried; rows are sorted by the length to generate, which favours it.
Both run in turn, `--repeats` times; tokens per wall second and per CPU second (children included) are reported as the
median, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rstar.backends.stats import EngineStats
from rstar.backends.transformers import TransformersPolicy
from rstar.protocols import ProposeRequest, SamplingConfig

NUM_CANDIDATES = 8
DEPTH = 6
GLUE = 2
PROMPT_TOKENS = range(60, 100)
STEP_TOKENS = range(10, 41)
GENERATE_BATCHES = (64, 128, 256)

Row = tuple[tuple[int, ...], int]
"""A prefix and how many tokens followed it."""


@dataclass(frozen=True)
class Measured:
    """Tokens generated, and what they cost."""

    tokens: int
    wall_s: float
    cpu_s: float


def cpu_seconds() -> float:
    """CPU time of this process and its live children so far."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def grow(policy: TransformersPolicy, tree: int, log: list[Row]) -> int:
    """One tree of the load; returns the tokens generated."""
    chance = random.Random(tree)
    vocabulary = range(20, 120)
    prefix_ids = tuple(chance.choices(vocabulary, k=chance.choice(PROMPT_TOKENS)))
    tokens = 0
    for level in range(DEPTH):
        sampling = SamplingConfig(max_step_tokens=chance.choice(STEP_TOKENS))
        request = ProposeRequest(
            prefix_ids=prefix_ids,
            num_candidates=NUM_CANDIDATES,
            seed=level,
            sampling=sampling,
            stop=("<end_of_step>",),
            group=str(tree),
        )
        candidates = await policy.propose(request)
        log += [(prefix_ids, len(candidate.token_ids)) for candidate in candidates]
        tokens += sum(len(candidate.token_ids) for candidate in candidates)
        glue = chance.choices(vocabulary, k=GLUE)
        prefix_ids = (*prefix_ids, *chance.choice(candidates).token_ids, *glue)
    return tokens


async def run_search(policy: TransformersPolicy, trees: range) -> tuple[Measured, list[Row], EngineStats]:
    """All trees at once."""
    log: list[Row] = []
    before = policy.stats()
    cpu_s, started_s = cpu_seconds(), time.perf_counter()
    tokens = sum(await asyncio.gather(*(grow(policy, tree, log) for tree in trees)))
    measured = Measured(tokens, time.perf_counter() - started_s, cpu_seconds() - cpu_s)
    return measured, log, policy.stats() - before


def generate(model: Path, requests: Any, results: Any) -> None:
    """A process that generates what it is sent: (batch size, [(prefix, tokens to generate)]) until None."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    lm: Any = AutoModelForCausalLM.from_pretrained(model, attn_implementation="sdpa").eval()
    results.put(0)
    while (work := requests.get()) is not None:
        batch_rows, rows = work
        rows.sort(key=lambda row: (row[1], len(row[0])))
        tokens = 0
        for start in range(0, len(rows), batch_rows):
            batch = rows[start : start + batch_rows]
            width = max(len(prefix) for prefix, _ in batch)
            longest = max(length for _, length in batch)
            ids = torch.tensor([[0] * (width - len(prefix)) + list(prefix) for prefix, _ in batch])
            mask = torch.tensor([[0] * (width - len(prefix)) + [1] * len(prefix) for prefix, _ in batch])
            with torch.inference_mode():
                lm.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=True,
                    max_new_tokens=longest,
                    min_new_tokens=longest,
                    pad_token_id=0,
                )
            tokens += sum(length for _, length in batch)
        results.put(tokens)


class Generators:
    """`num_processes` processes around plain `generate`."""

    def __init__(self, model: Path, num_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._results = context.Queue()
        self._requests = [context.Queue() for _ in range(num_processes)]
        self._processes = [
            context.Process(target=generate, args=(model, queue, self._results), daemon=True)
            for queue in self._requests
        ]
        for process in self._processes:
            process.start()
        for _ in self._processes:
            self._results.get()

    def run(self, rows: Sequence[Row], batch_rows: int) -> Measured:
        """Generate all rows."""
        cpu_s, started_s = cpu_seconds(), time.perf_counter()
        for i, queue in enumerate(self._requests):
            queue.put((batch_rows, list(rows[i :: len(self._requests)])))
        tokens = sum(self._results.get() for _ in self._requests)
        return Measured(tokens, time.perf_counter() - started_s, cpu_seconds() - cpu_s)

    def close(self) -> None:
        for queue in self._requests:
            queue.put(None)
        for process in self._processes:
            process.join()


def report(name: str, runs: Sequence[Measured]) -> tuple[float, float]:
    """Print and return the median tokens per wall second and per CPU second."""
    per_wall = statistics.median(run.tokens / run.wall_s for run in runs)
    per_cpu = statistics.median(run.tokens / run.cpu_s for run in runs)
    print(
        f"{name:<22} {per_wall:9,.0f} tokens/s wall {per_cpu:9,.0f} tokens/s CPU   ({runs[0].tokens:,} tokens)"
    )
    return per_wall, per_cpu


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=Path("rounds/base"))
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-batch-rows", type=int, default=128)
    parser.add_argument("--no-generate", action="store_true", help="measure the back-end alone")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    policy = TransformersPolicy(
        arguments.model, num_replicas=arguments.replicas, max_batch_rows=arguments.max_batch_rows
    )
    await policy.start()
    generators = None if arguments.no_generate else Generators(arguments.model, max(arguments.replicas, 1))
    await run_search(policy, range(4))
    search: list[Measured] = []
    plain: dict[int, list[Measured]] = {size: [] for size in GENERATE_BATCHES}
    for repeat in range(arguments.repeats):
        first = 1000 + repeat * arguments.trees
        measured, log, stats = await run_search(policy, range(first, first + arguments.trees))
        search.append(measured)
        if generators is not None:
            for size, runs in plain.items():
                runs.append(generators.run(log, size))
    lengths = [len(prefix_ids) for prefix_ids, _ in log]
    print(
        f"{arguments.trees} trees, prefixes {min(lengths)}-{max(lengths)} tokens, {arguments.replicas} processes"
    )
    print(
        f"last run: {stats.cache_hit_share:.1%} of prefix tokens from the cache, {stats.mean_batch_rows:.0f} rows a step,"
        f" {stats.busy_s / stats.steps * 1e3:.1f} ms a step, {stats.prefill_passes} prefill passes"
    )
    ours = report("transformers back-end", search)
    if generators is not None:
        best = [report(f"generate, batch {size}", runs) for size, runs in plain.items()]
        wall, cpu = max(w for w, _ in best), max(c for _, c in best)
        print(f"ratio to the best generate: {ours[0] / wall:.2f} wall, {ours[1] / cpu:.2f} CPU")
        generators.close()
    await policy.aclose()


if __name__ == "__main__":
    asyncio.run(main())
