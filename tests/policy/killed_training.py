"""Train, and be killed right after an optimiser step: `python -m tests.policy.killed_training base out kill_at`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from policy.config import SFTConfig
from policy.sft import train
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


if __name__ == "__main__":
    base, out, kill_at = sys.argv[1:]
    call_after_step(int(kill_at), lambda: os.kill(os.getpid(), signal.SIGKILL))
    train(EXAMPLES, base=Path(base), out=Path(out), config=CONFIG, seed=5)
