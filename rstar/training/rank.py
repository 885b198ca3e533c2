"""The program of one process of a training: calls what lies in the job's folder, and leaves result or failure there.

python -m rstar.training.rank JOB
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import traceback
import warnings
from pathlib import Path

from rstar.training.agent import AGENT
from rstar.training.launch import RESULT, TERMINAL, WORK, record_failure

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the work; 0 if it went well."""
    _end_with_agent()
    job, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    _write_to(job / f"rank-{rank}.log", (1, 2))
    if rank == 0 and (terminal := os.environ.get(TERMINAL)):
        _write_to(Path(terminal), (2,))
    # DeepSpeed and PyTorch are not always of one mind about names; every step would say so.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\.")
    try:
        work, arguments = pickle.loads((job / WORK).read_bytes())
        result = work(**arguments)
        if rank == 0:
            (job / f"{RESULT}.partial").write_bytes(pickle.dumps(result))
            (job / f"{RESULT}.partial").replace(job / RESULT)
    except BaseException as error:
        record_failure(job, rank, error)
        traceback.print_exc()
        return 1
    return 0


def _end_with_agent() -> None:
    """Have the kernel end this process when the agent ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[AGENT]):
        os._exit(1)  # it ended before


def _write_to(file: Path, streams: tuple[int, ...]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY, 0o644)
    for stream in streams:
        os.dup2(descriptor, stream)
    os.close(descriptor)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # what libraries would still tear down has been written; some of them hang there
