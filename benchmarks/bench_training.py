"""Policy training: the Trainer beside a plain loop over the same batches, and each packing and precision.

    python -m benchmarks.bench_training [--base rounds/base] [--examples 192] [--repeats 2] [--threads 1]

Prints Markdown. Examples are random tokens, 80 to 280 each, two thirds the policy's; batches of 32 examples in micro-
batches of 16. Tokens count prompts, not padding. Variants run in turn, best of `--repeats` by CPU time; process start,
loading and saving of the model are left out. `plain loop` is forward, backward and AdamW and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Trainer

from policy.config import Packing, SFTConfig
from policy.losses import policy_token_loss
from policy.packing import collate
from policy.sft import train
from policy.sft_sets import SFTExample
from rstar.seeds import rng
from rstar.training.config import Precision

SETTINGS = SFTConfig(epochs=1, learning_rate=1e-4, global_batch_size=32, micro_batch_size=16)


def random_examples(count: int) -> list[SFTExample]:
    chance = rng(0, "examples")
    examples = []
    for index in range(count):
        length = chance.randint(80, 280)
        examples.append(
            SFTExample(
                problem_id=str(index),
                tree_index=0,
                token_ids=tuple(chance.randrange(500) for _ in range(length)),
                loss_mask=tuple(int(3 * at >= length) for at in range(length)),
                text="",
                mean_q=1.0,
                answer="",
            )
        )
    return examples


def plain_loop(examples: Sequence[SFTExample], base: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one epoch without the Trainer."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS.learning_rate)

    def epoch() -> None:
        for start in range(0, len(examples), SETTINGS.global_batch_size):
            batch = examples[start : start + SETTINGS.global_batch_size]
            num_tokens = sum(example.num_policy_tokens for example in batch)
            for first in range(0, len(batch), SETTINGS.micro_batch_size):
                inputs = collate(batch[first : first + SETTINGS.micro_batch_size], SETTINGS.packing)
                labels = inputs.pop("labels")
                policy_token_loss(model(**inputs).logits, labels, num_tokens).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

    return _timed(epoch)


def trainer_loop(examples: Sequence[SFTExample], base: Path, config: SFTConfig) -> tuple[float, float]:
    """Wall and CPU seconds of the Trainer's loop in `policy.sft.train`, checkpoint at the end included."""
    taken: list[tuple[float, float]] = []
    inner = Trainer.train

    def timed_train(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        result: list[Any] = []
        taken.append(_timed(lambda: result.append(inner(self, *args, **kwargs))))
        return result[0]

    Trainer.train = timed_train  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as out:
            train(examples, base=base, out=Path(out), config=config, seed=0)
    finally:
        Trainer.train = inner  # type: ignore[method-assign]
    return taken[0]


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", type=Path, default=Path(__file__).resolve().parent.parent / "rounds" / "base"
    )
    parser.add_argument("--examples", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = random_examples(options.examples)
    num_tokens = sum(len(example.token_ids) for example in examples)
    variants: dict[str, Callable[[], tuple[float, float]]] = {
        "plain loop, rows, float32": lambda: plain_loop(examples, options.base)
    }
    for packing in (Packing.ROWS, Packing.OFF, Packing.FLAT):
        config = dataclasses.replace(SETTINGS, packing=packing)
        variants[f"Trainer, {packing}, float32"] = functools.partial(
            trainer_loop, examples, options.base, config
        )
    half = dataclasses.replace(SETTINGS, precision=Precision.BFLOAT16)
    variants["Trainer, rows, bfloat16"] = lambda: trainer_loop(examples, options.base, half)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(options.repeats):
        for name, run in variants.items():
            taken[name].append(run())
    print(f"{len(examples)} examples, {num_tokens} tokens, {options.threads} thread(s)\n")
    print("| variant | tokens per CPU-s | tokens per s | CPU time over the plain loop |")
    print("|---|---|---|---|")
    plain = min(cpu for _, cpu in taken["plain loop, rows, float32"])
    for name, times in taken.items():
        wall, cpu = min(wall for wall, _ in times), min(cpu for _, cpu in times)
        print(f"| {name} | {num_tokens / cpu:,.0f} | {num_tokens / wall:,.0f} | {cpu / plain:.2f} |")


if __name__ == "__main__":
    main()
