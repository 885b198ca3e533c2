"""The obviously right executor: each query runs its whole history from nothing in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

_PROGRAM = """
import contextlib, io, json, os, random, sys
random.seed(0)
def answer(codes):
    namespace = {"__name__": "__main__"}
    verdict = "ok"
    for code in codes:
        stdout = io.StringIO()
        with contextlib.redirect_stdout(stdout):
            try:
                exec(compile(code, "<step>", "exec"), namespace)
            except BaseException as error:
                verdict = type(error).__name__
    return [verdict, stdout.getvalue()]
for line in sys.stdin:
    read, write = os.pipe()
    state = random.getstate()
    pid = os.fork()
    if pid == 0:
        random.setstate(state)
        os.write(write, json.dumps(answer(json.loads(line))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    print(os.read(read, 1 << 16).decode(), flush=True)
    os.close(read)
"""


class NaiveReplay:
    """`answer(codes)`: (exception type of the last code or "ok", its stdout), after all the others in order."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0"},
            text=True,
        )

    def answer(self, codes: Sequence[str]) -> tuple[str, str]:
        """Run one path."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(codes)) + "\n")
        self._process.stdin.flush()
        verdict, stdout = json.loads(self._process.stdout.readline())
        return verdict, stdout

    def close(self) -> None:
        """End the helper."""
        self._process.communicate()
