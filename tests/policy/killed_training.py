"""Train, and be killed right after an optimiser step: `python -m tests.policy.killed_training base out kill_at [settings]`.

`settings` is JSON: what differs from `CONFIG`. With several processes the second is killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from policy.config import SFTConfig
from policy.sft import train
from rstar.training.hosts import LOCAL, Hosts
from rstar.training.launch import is_rank, launch
from tests.policy.forest import random_examples

CONFIG = SFTConfig(
    epochs=3, learning_rate=3e-3, warmup_ratio=0.2, weight_decay=0.1, global_batch_size=8, micro_batch_size=4,
    save_steps=2, num_threads=1,
)  # fmt: skip
EXAMPLES = random_examples(21, vocab_size=200, seed=3, lengths=(4, 40))
"""Three steps an epoch, the last of them smaller: nine steps."""


def call_after_step(number: int, action: Callable[[], None]) -> RemovableHandle:
    """Run `action` after the optimiser's step of this number from now on; returns the hook's handle."""
    count = 0

    def hook(*_: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            action()

    return register_optimizer_step_post_hook(hook)


def train_and_be_killed(base: str, out: str, kill_at: str, settings: str = "{}") -> None:
    config = dataclasses.replace(CONFIG, **json.loads(settings))
    if config.num_processes is None or os.environ.get("RANK") == "1":
        call_after_step(int(kill_at), lambda: os.kill(os.getpid(), signal.SIGKILL))
    if config.num_processes is None or is_rank():
        train(EXAMPLES, base=Path(base), out=Path(out), config=config, seed=5)
        return
    hosts = Hosts(slots={LOCAL: config.num_processes})
    launch(
        train_and_be_killed, folder=Path(out), hosts=hosts, num_threads=1, base=base, out=out, kill_at=kill_at,
        settings=settings,
    )  # fmt: skip


if __name__ == "__main__":
    from tests.policy import killed_training

    killed_training.train_and_be_killed(*sys.argv[1:])
