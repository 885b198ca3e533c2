"""The process that runs computer algebra for the grader: `python -m rstar.grading.worker`.

One request a line on stdin, one answer a line on stdout, JSON both ways. It works in the main thread, under an alarm
on its own CPU time and under resource limits, and dies with its parent, however that dies. What interrupts code that
never returns to Python is the parent, which kills it (`pool`).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from rstar.grading import structure
from rstar.grading.compare import Comparison

PR_SET_PDEATHSIG = 1


class _OutOfTimeError(BaseException):
    """No Exception: computer algebra catches those."""


def main() -> None:
    """Serve requests until stdin ends. Arguments: parent process id, CPU seconds per request, memory in bytes."""
    parent, cpu_limit_s, memory_bytes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    _die_with(parent)
    signal.signal(signal.SIGPROF, _alarm)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints is no answer

    from rstar.grading import symbolic

    for descriptor in (1, 2):  # nobody reads it from here on, and a full pipe would stop us
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(
            json.dumps(_answer(request["a"], request["b"], cpu_limit_s, symbolic)), file=answers, flush=True
        )


def _answer(a: str, b: str, cpu_limit_s: float, symbolic: Any) -> dict[str, Any]:
    unread: list[str] = []

    def decide(one: str, other: str) -> bool:
        try:
            return bool(symbolic.equal_expressions(one, other))
        except symbolic.UnreadableError as error:
            unread.append(str(error))
            return False

    try:
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
        try:
            equal = Comparison(decide).equal(structure.parse(a), structure.parse(b))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _OutOfTimeError:
        return {"status": "timeout"}
    except MemoryError:
        return {"status": "memory"}
    except Exception as error:  # a bug or a limit (recursion) of computer algebra: this pair cannot be read
        return {"status": "unread", "detail": f"computer algebra failed: {type(error).__name__}"}
    if not equal and unread:
        return {"status": "unread", "detail": unread[0]}
    return {"status": "equal" if equal else "different"}


def _alarm(_signal: int, _frame: object) -> None:
    raise _OutOfTimeError


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    main()
