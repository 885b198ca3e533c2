"""Training on two processes beside one: largest difference of any loss, and time, with and without DeepSpeed.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_deepspeed [--problems 24] [--deepspeed zero3] [--precision float32]
        [--epochs 2] [--skip-plain]

Prints Markdown. `--problems` problems of the curriculum are searched by the shipped base model; policy and preference model
are trained on those trees with the embedded recipe's settings, but for `--precision`, `--epochs` and micro-batches of half a
batch. Every optimiser step's loss is compared with that of one process without DeepSpeed; the aim is 1e-4 in float32. Another
attention kernel (eager) in one process, which too only changes the last digits, shows how far these alone take a training in
bfloat16. `loop` is the time in the Trainer's loop, `whole` with the start of processes, loading and saving. On a machine with
two cores two processes take both.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench_ppm_batches import BASE, search_trees
from benchmarks.tables import markdown
from policy.sft import train as train_policy
from policy.sft_sets import sft_set
from ppm.pairs import pair_set
from ppm.train import train as train_ppm
from rounds.curriculum import Level, Split, generate
from rounds.recipe import load
from rstar.backends.loading import read_tokenizer
from rstar.prompts import BARE
from rstar.training.config import Precision


def main() -> None:
    """Search, train, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--deepspeed", default="zero3")
    parser.add_argument("--precision", type=Precision, default=Precision.FLOAT32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--skip-plain", action="store_true", help="leave out two processes without DeepSpeed")
    options = parser.parse_args()
    recipe = load("embedded", 1)
    trees = search_trees(options.problems)
    problems = [one for level in Level for one in generate(Split.TRAIN, level, options.problems // 3, 0)]
    reading: dict[str, Any] = {
        "format": BARE,
        "encode": partial(read_tokenizer(BASE).encode, add_special_tokens=False),
        "max_output_chars": recipe.search.max_output_chars,
    }
    examples = sft_set(trees, problems, config=recipe.sft_set, seed=0, **reading).examples
    groups = pair_set(trees, config=recipe.pairs, **reading).groups
    changes: dict[str, Any] = {"precision": options.precision, "epochs": options.epochs, "logging_steps": 1}
    halved = {"micro_batch_size": recipe.sft.global_batch_size // 2}
    trainings: dict[str, Callable[..., Any]] = {
        f"policy, {len(examples)} examples": lambda out, **how: train_policy(
            examples,
            base=BASE,
            out=out,
            config=dataclasses.replace(recipe.sft, **{**changes, **halved, **how}),
            seed=0,
        ),
        f"PPM, {sum(group.size for group in groups)} pairs": lambda out, **how: train_ppm(
            groups, base=BASE, out=out, config=dataclasses.replace(recipe.ppm, **changes, **how), seed=0
        ),
    }
    ways: dict[str, dict[str, Any]] = {
        "one process": {}, "one process, other kernel": {"attention": "eager"}, "two processes": {"num_processes": 2},
    }  # fmt: skip
    if options.skip_plain:
        del ways["two processes"]
    if options.deepspeed != "none":
        ways[f"two processes, {options.deepspeed}"] = {"num_processes": 2, "deepspeed": options.deepspeed}
    rows = []
    for what, run in trainings.items():
        alone: tuple[float, ...] = ()
        for way, how in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                result = run(Path(folder, "out"), **how)
                whole = time.perf_counter() - start
            alone = alone or result.losses
            assert len(result.losses) == len(alone)
            apart = max(abs(loss - other) for loss, other in zip(result.losses, alone, strict=True))
            seconds = [f"{result.train_s:.1f} s", f"{whole:.1f} s"]
            rows.append([what, way, str(result.num_steps), f"{apart:.1e}", *seconds])
    header = ["training", "on", "steps", "largest difference of a loss", "loop", "whole"]
    print(markdown(f"Two processes beside one, {options.precision}", header, rows))


if __name__ == "__main__":
    main()
