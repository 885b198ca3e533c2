"""Preference batches: tokens computed per pair and time of a training pass, for each way of sharing prefixes.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_ppm_batches [--store FOLDER] [--problems 48] [--pairs 192] [--repeats 2]

Prints Markdown. Trees are those of `--store` (the folder of a round's search, such as runs/.../round1/search/store), or are
searched here: `--problems` problems of the curriculum, 16 rollouts x 8 candidates, by the shipped base model. `naive` is the
pairwise computation: two whole sequences for every pair. All variants compute the same loss and gradients of the same
pairs, forward and backward through the shipped model with a fresh head, in micro-batches of about 8192 tokens (padding
aside), in turn, best of `--repeats` by CPU time. The embedded world's steps are a few words long, so pairs of steps are
taken at any edit distance of `--min-edit-distance` or more.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ppm.batches import MicroBatch, collate, num_tokens, plan
from ppm.config import PairConfig, PPMConfig, ScoreBound, Sharing
from ppm.groups import PairGroup, PairKind
from ppm.losses import bradley_terry_loss
from ppm.model import ProcessPreferenceModel, start_from
from ppm.pairs import pair_set
from rounds.curriculum import Level, Split, generate
from rstar.backends.loading import read_tokenizer
from rstar.campaign import search_into_store
from rstar.config import SearchConfig
from rstar.engines import EngineConfig
from rstar.grading import GraderConfig
from rstar.prompts import BARE
from rstar.protocols import SamplingConfig
from rstar.sandbox import SandboxConfig
from rstar.store import Store
from rstar.tree import Tree

BASE = Path(__file__).resolve().parent.parent / "rounds" / "base"
MAX_LENGTH = 512
MODEL_INPUTS = ("input_ids", "position_ids", "subtree_ends", "read_at")


def search_trees(num_problems: int) -> list[Tree]:
    """Trees of easy, medium and olympiad problems alike, as round 2 would search them with the base model."""
    problems = [problem for level in Level for problem in generate(Split.TRAIN, level, num_problems // 3, 0)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder))
        asyncio.run(
            search_into_store(
                problems, model=BASE, store=store, round_index=1, label="search",
                search=SearchConfig(sampling=SamplingConfig(max_step_tokens=96)), sandbox=SandboxConfig(),
                grading=GraderConfig(), engine=EngineConfig(), prompt_format=BARE.name, seed=0,
            )
        )  # fmt: skip
        return list(store.trees(1))


def pair_by_pair(groups: Sequence[PairGroup]) -> list[PairGroup]:
    """Every pair as a group of its own, weighted as before by the caller: nothing is shared."""
    return [
        dataclasses.replace(
            group,
            parent=index,
            chosen=(group.chosen[chosen],),
            rejected=(group.rejected[rejected],),
            pairs=((0, 0),),
        )
        for group in groups
        for index, (chosen, rejected) in enumerate(group.pairs)
    ]


def train_pass(
    model: ProcessPreferenceModel, micro_batches: Sequence[MicroBatch], sharing: Sharing
) -> tuple[float, int]:
    """CPU seconds of forward and backward over all, collating included, and cells of the tensors, padding included."""
    cpu, cells = time.process_time(), 0
    for groups in micro_batches:
        batch = collate(groups, sharing=sharing, max_length=MAX_LENGTH)
        rewards = model(**{name: batch[name] for name in MODEL_INPUTS})
        bradley_terry_loss(
            rewards[batch["chosen"]], rewards[batch["rejected"]], batch["pair_weights"]
        ).backward()
        model.zero_grad()
        cells += batch["input_ids"].numel()
    return time.process_time() - cpu, cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path)
    parser.add_argument("--problems", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=192, help="pairs of the timed passes, about")
    parser.add_argument("--min-edit-distance", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trees = list(Store(options.store).trees()) if options.store else search_trees(options.problems)
    tokenizer = read_tokenizer(BASE)
    made = pair_set(
        trees,
        config=PairConfig(min_edit_distance=options.min_edit_distance),
        format=BARE,
        encode=partial(tokenizer.encode, add_special_tokens=False),
        max_output_chars=SearchConfig().max_output_chars,
    )
    kinds = ", ".join(f"{made.report.num_pairs[kind]} {kind} pairs" for kind in PairKind)
    print(f"{len(trees)} trees, {made.report.num_nodes} nodes: {kinds} in {len(made.groups)} groups\n")
    variants: dict[str, tuple[list[PairGroup], Sharing]] = {
        "naive": (pair_by_pair(made.groups), Sharing.OFF),
        **{str(sharing): (list(made.groups), sharing) for sharing in Sharing},
    }
    tokens = {
        name: num_tokens(groups, sharing=sharing, max_length=MAX_LENGTH)
        for name, (groups, sharing) in variants.items()
    }
    total = made.report.num_pairs.total()

    # Whole trees from the start of the list until there are enough pairs: the same pairs in every variant.
    names: list[str] = []
    timed_pairs = 0
    for group in made.groups:
        if group.problem_id not in names:
            if timed_pairs >= options.pairs:
                break
            names.append(group.problem_id)
        timed_pairs += len(group.pairs)
    model = start_from(BASE, ScoreBound.TANH)
    model.train()
    plans = {}
    for name, (groups, sharing) in variants.items():
        timed = [group for group in groups if group.problem_id in names]
        config = PPMConfig(
            sharing=sharing, max_length=MAX_LENGTH, micro_batch_tokens=8192, global_batch_size=10**9
        )
        plans[name] = (plan(timed, config, seed=0)[0], sharing)
    best: dict[str, tuple[float, int]] = {}
    for _ in range(options.repeats):
        for name, (micro_batches, sharing) in plans.items():
            taken = train_pass(model, micro_batches, sharing)
            best[name] = min(best.get(name, taken), taken)
    print(
        "| sequences share | tokens per pair | of naive | padding | CPU ms per pair | of naive |\n|---|---|---|---|---|---|"
    )
    for name, (cpu_s, cells) in best.items():
        micro_batches, sharing = plans[name]
        used = sum(num_tokens(groups, sharing=sharing, max_length=MAX_LENGTH) for groups in micro_batches)
        print(
            f"| {name} | {tokens[name] / total:.1f} | {tokens[name] / tokens['naive']:.2f} | {1 - used / cells:.0%} "
            f"| {1000 * cpu_s / timed_pairs:.1f} | {cpu_s / best['naive'][0]:.2f} |"
        )


if __name__ == "__main__":
    main()
