"""The program of a training on one machine: torchrun, ended when whoever launched it is gone.

    python -m rstar.training.agent JOB INDEX MACHINES SLOTS ADDRESS PORT

Its standard input stays open as long as the launcher lives; on another machine the remote shell passes it on.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from rstar.training.launch import HOLD, record_failure

AGENT = "RSTAR_AGENT"
"""Environment variable with the agent's process id, by which its processes know whether it still lives."""


def main() -> int:
    """Run this machine's processes; 0 if all went well."""
    job, index, machines, slots, address, port = sys.argv[1:]
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.environ[AGENT] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    place = ["--nnodes", machines, "--node-rank", index, "--nproc-per-node", slots]
    where = ["--master-addr", address, "--master-port", port, "--monitor-interval", "0.1"]
    try:
        torchrun([*place, *where, "-m", "rstar.training.rank", job])
    except ChildFailedError as failed:
        for rank, failure in failed.failures.items():
            if (
                failure.exitcode < 0 and failure.exitcode != -15
            ):  # -15: torchrun itself ends those that are left
                record_failure(Path(job), rank, -failure.exitcode, failure.timestamp)
        return 1
    return 0


def _end_with_input() -> None:
    input = sys.stdin.fileno()  # not the stream, whose lock would still be held when the interpreter ends
    if os.read(input, len(HOLD)) == HOLD:
        while os.read(input, 1):
            pass
        os._exit(1)  # the kernel ends the processes with it: see `rank`


if __name__ == "__main__":
    sys.exit(main())
