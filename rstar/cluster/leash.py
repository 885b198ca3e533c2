"""Runs a command that must not outlive whoever asked for it: `python leash.py FD COMMAND`.

The command runs in a shell, in a session of its own, until it ends or the pipe FD breaks, whose other end is held by the
one who asked: however that one ends, the pipe breaks. Then every process of the session gets SIGTERM, and after a while
SIGKILL. Ray itself kills the children of a worker that ends, and only those; so who waits for the pipe is a grandchild.

Imports nothing of this project: it runs in the node's environment, whatever that can import.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

ENDED_WITHIN_S = 10.0
POLL_S = 0.05


def run(pipe: int, command: str) -> int:
    """The command's exit code; 128 plus the signal if one ended it, as shells have it."""
    child = subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True)
    select.select([pipe, os.pidfd_open(child.pid)], [], [])
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + ENDED_WITHIN_S
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # also what the command left running
    code = child.wait()
    return code if code >= 0 else 128 - code


def main(pipe: int, command: str) -> int:
    """`run` in a child of its own; its exit code."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(run(pipe, command))
    os.close(pipe)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
