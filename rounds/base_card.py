"""The base model's card: how it was made and what it can do, written by the command that made it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policy.config import SFTConfig
from policy.statistics import wilson_interval
from rounds.curriculum import Family, Level
from rounds.curriculum.blocks import IDEAS
from rounds.curriculum.lessons import NOISE, SHARES, SHOWN_STEPS

if TYPE_CHECKING:
    from policy.sft import TrainingResult

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One held-out problem, solved greedily. `num_code_steps` is the length of the reference solution."""

    level: Level
    family: Family
    num_code_steps: int
    solved: bool


def write_card(
    folder: Path,
    attempts: Sequence[Attempt],
    *,
    seed: int,
    training: SFTConfig,
    result: TrainingResult,
    model_hash: str,
    total_s: float,
) -> None:
    """Write the card of the model in `folder`, with its accuracy by level, length and family."""
    config = json.loads((folder / "config.json").read_text())
    shares = ", ".join(f"{share:.0%} {level}" for level, share in SHARES.items())
    (folder / CARD).write_text(
        f"""# The embedded base model

A stock Qwen2 model, trained from scratch by `make base` on lessons of `rounds/curriculum`. It is imperfect on purpose:
its teacher holds misconceptions, slips and stops early, and of an olympiad problem shows only the first {SHOWN_STEPS} steps,
never an end. The rounds have to earn the rest by search, verification and training.

| | |
|---|---|
| architecture | `Qwen2ForCausalLM`, {config["num_hidden_layers"]} layers, hidden size {config["hidden_size"]}, {config["num_attention_heads"]} heads of 64, {config["num_key_value_heads"]} of keys and values, untied embeddings |
| vocabulary | {config["vocab_size"]} byte-level BPE tokens, one per digit and per tag |
| context | {config["max_position_embeddings"]} tokens |
| lessons | {result.num_examples:,} ({shares}), each seen {training.epochs} time(s): {result.num_tokens:,} tokens, the loss on the policy's {result.num_policy_tokens:,} |
| training | {result.num_steps:,} steps of {training.global_batch_size}, AdamW, learning rate {training.learning_rate:g} {training.schedule} with {training.warmup_ratio:.0%} warm-up, weight decay {training.weight_decay:g}, {training.precision} |
| seed | {seed} |
| final loss | {result.final_loss:.4f} nats per token |
| time | {result.train_s:.0f} s of training, {total_s:.0f} s in all |
| hash | `{model_hash}` |

## What the teacher gets wrong

| | {" | ".join(Level)} |
|---|---|---|---|
{_noise_rows()}

Tricky ideas: {", ".join(sorted(idea.name for idea in IDEAS if idea.tricky)).replace("_", " ")}.

## Accuracy

Greedy, on held-out problems that no lesson and no round has seen; programs run in the sandbox, answers graded. In
brackets: 95 % confidence (Wilson).

{accuracy_tables(attempts)}
"""
    )


def accuracy_tables(attempts: Sequence[Attempt]) -> str:
    """Markdown tables of the share solved: by level, by length, and by family at each level."""
    return f"""{_table("level", attempts, lambda attempt: attempt.level)}

By length of the reference solution:

{_table("code steps", attempts, lambda attempt: str(attempt.num_code_steps))}

By family of the last block, share solved at each level:

{_family_table(attempts)}"""


def _noise_rows() -> str:
    names = {
        "tricky_misconception": "misconception, per step of a tricky idea",
        "misconception": "misconception, per other step",
        "slip": "wrong number, per step",
        "stop": "stops early, per lesson of two steps or more",
        "swap": "two steps swapped, per lesson of two steps or more",
    }
    return "\n".join(
        f"| {text} | {' | '.join(f'{getattr(NOISE[level], name):.0%}' for level in Level)} |"
        for name, text in names.items()
    )


def _table(title: str, attempts: Sequence[Attempt], key: Callable[[Attempt], str]) -> str:
    rows = [f"| {title} | problems | solved |", "|---|---|---|"]
    for value in dict.fromkeys(sorted((key(attempt) for attempt in attempts), key=_order)):
        solved = [attempt.solved for attempt in attempts if key(attempt) == value]
        interval = wilson_interval(sum(solved), len(solved))
        share = sum(solved) / len(solved)
        rows.append(f"| {value} | {len(solved)} | {share:.1%} ({interval.low:.1%}-{interval.high:.1%}) |")
    return "\n".join(rows)


def _order(value: str) -> tuple[int, str]:
    levels = [level.value for level in Level]
    return (levels.index(value), value) if value in levels else (0, value)


def _family_table(attempts: Sequence[Attempt]) -> str:
    rows = ["| family | " + " | ".join(Level) + " |", "|---|" + "---|" * len(Level)]
    for family in Family:
        cells = []
        for level in Level:
            solved = [a.solved for a in attempts if a.family is family and a.level is level]
            cells.append(f"{sum(solved) / len(solved):.0%} of {len(solved)}" if solved else "none asked")
        rows.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
