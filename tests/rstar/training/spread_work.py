"""What the tests of `launch` have processes do, and a program that launches it: `python -m ... FOLDER WORK`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from rstar.errors import ConfigError
from rstar.training.hosts import LOCAL, Hosts
from rstar.training.launch import launch


def place(**given: int) -> dict[str, int]:
    """Where this process is, and what it was given."""
    return {name: int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} | given


def refuse_on_second() -> None:
    if os.environ["RANK"] == "1":
        raise ConfigError("that does not fit")
    time.sleep(60)


def fail_on_second() -> None:
    if os.environ["RANK"] == "1":
        raise MemoryError("no room left\nfor anything")
    time.sleep(60)


def die_on_second() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def wait(notes: Path) -> None:
    """Write down this process and its agent, and never end."""
    (notes / f"process-{os.environ['RANK']}").write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(600)


if __name__ == "__main__":
    from tests.rstar.training import spread_work

    launch(
        spread_work.wait,
        folder=Path(sys.argv[1]),
        hosts=Hosts(slots={LOCAL: 2}),
        num_threads=1,
        notes=Path(sys.argv[1]),
    )
