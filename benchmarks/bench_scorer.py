"""The value model in search: tokens computed and CPU time per scored step, with the prefix cache over without it.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_scorer [--store FOLDER] [--model FOLDER] [--trees 96] [--in-flight 64] [--repeats 2]

Prints Markdown. Replays what a search asks the value model for: for every expanded node of a tree, in the order in which
they were expanded, the steps after it that the search may go on from. A tree asks for the next when it has the answer to
the last; `--in-flight` trees ask at once. Trees are those of `--store` (the folder of a round's search, such as
runs/.../round1/search/store), `--trees` of them evenly over it, or, without a store, searched here by the shipped base model as for
`bench_ppm_batches`. `--model` is the folder of a preference model; without one it is the base model with a fresh head.

Tokens are per scored step. `each alone` is the whole sequence of every step, counted, not run. Both others share the prefix
among siblings and batch what waits; they run in turn, each from an empty cache, best of `--repeats` by CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.bench_ppm_batches import BASE, search_trees
from ppm.config import ScoreBound
from ppm.model import start_from
from ppm.scoring_engine import ScoringStats
from ppm.scoring_settings import ScoringSettings
from ppm.siblings import Siblings
from rstar.backends.loading import context_tokens, read_tokenizer
from rstar.config import SearchConfig
from rstar.prompts import BARE, render_prompt
from rstar.store import Store
from rstar.trajectories import prefix_of
from rstar.tree import Tree


def score_requests(tree: Tree) -> list[Siblings]:
    """What a search with this tree as its outcome asks the value model, in order."""
    tokenizer = read_tokenizer(BASE)
    encode = partial(tokenizer.encode, add_special_tokens=False)
    prompt = render_prompt(BARE, tree.question)
    expanded = [node_id for node_id, node in enumerate(tree.nodes) if node.children]
    expanded.sort(key=lambda node_id: tree.nodes[node_id].children[0])
    requests = []
    for node_id in expanded:
        children = [tree.nodes[child] for child in tree.nodes[node_id].children]
        steps = tuple(child.token_ids for child in children if child.live and child.terminal is None)
        if steps:
            prefix = prefix_of(
                tree, node_id, prompt=prompt, encode=encode, max_output_chars=SearchConfig().max_output_chars
            )
            requests.append(Siblings(prefix.token_ids, steps))
    return requests


def replay(
    settings: ScoringSettings, asked: Sequence[Sequence[Siblings]], in_flight: int
) -> tuple[float, ScoringStats]:
    """CPU seconds, and what the engine counted."""
    engine = settings.load()
    trees = iter(enumerate(asked))
    running: dict[int, Iterator[Siblings]] = {}

    def ask_next(index: int) -> None:
        """The next request of this tree, or the first one of a tree that has not asked yet."""
        while (request := next(running[index], None)) is None:
            del running[index]
            if (fresh := next(trees, None)) is None:
                return
            index = fresh[0]
            running[index] = iter(fresh[1])
        engine.submit(index, request)

    cpu = time.process_time()
    for index, requests in [fresh for _, fresh in zip(range(in_flight), trees, strict=False)]:
        running[index] = iter(requests)
        ask_next(index)
    while engine.has_work:
        for index, _ in engine.step():
            ask_next(index)
    return time.process_time() - cpu, engine.stats


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--trees", type=int, default=96)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trees = list(Store(options.store).trees()) if options.store else search_trees(options.trees)
    trees = trees[:: max(1, len(trees) // options.trees)][: options.trees]
    asked = [score_requests(tree) for tree in trees]
    requests = [request for of_tree in asked for request in of_tree]
    alone = sum(len(request.prefix_ids) + len(step) for request in requests for step in request.steps)
    num_steps = sum(len(request.steps) for request in requests)
    print(f"{len(trees)} trees, {len(requests)} requests, {num_steps} steps\n")
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            start_from(BASE, ScoreBound.TANH).classifier.save_pretrained(folder)
        model = options.model or Path(folder)
        best: dict[str, tuple[float, ScoringStats]] = {}
        for _ in range(options.repeats):
            for name, prefix_cache_mb in (("no cache", 0), ("prefix cache", 512)):
                settings = ScoringSettings(
                    model=model, device="cpu", dtype="auto", max_length=context_tokens(model, None),
                    max_pass_tokens=16384, prefix_cache_mb=prefix_cache_mb,
                )  # fmt: skip
                taken = replay(settings, asked, options.in_flight)
                best[name] = min(best.get(name, taken), taken, key=lambda taken: taken[0])
    slowest_s = best["no cache"][0]
    print(
        "| | tokens per step | padding | steps per pass | CPU ms per step | of no cache |\n|---|---|---|---|---|---|"
    )
    print(f"| each alone | {alone / num_steps:.1f} | | | | |")
    for name, (cpu_s, stats) in best.items():
        assert stats.scored_steps == num_steps
        print(
            f"| {name} | {stats.computed_tokens / num_steps:.1f} | {1 - stats.computed_tokens / stats.padded_tokens:.0%} "
            f"| {num_steps / stats.passes:.0f} | {1000 * cpu_s / num_steps:.2f} | {cpu_s / slowest_s:.2f} |"
        )


if __name__ == "__main__":
    main()
