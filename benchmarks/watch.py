"""What a process and all its descendants take, phase by phase: CPU time, and memory at its peak.

Memory is the sum of proportional set sizes, in which shared pages count once. Both are sampled once a second, so what a
phase took is known to a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S = 1.0


@dataclass(slots=True)
class Taken:
    """By one phase."""

    cpu_s: float = 0.0
    peak_bytes: int = 0


class ProcessWatch:
    """Watches from its making on. `phase` names what the process is doing when it is called."""

    def __init__(self, pid: int, phase: Callable[[], str]) -> None:
        self._pid = pid
        self._phase = phase
        self._taken: dict[str, Taken] = {}
        self._cpu_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, Taken]:
        """What each phase took, in order."""
        self._stopped.set()
        self._thread.join()
        return self._taken

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(self._pid)
                processes = [root, *root.children(recursive=True)]
                taken = self._taken.setdefault(self._phase(), Taken())
                taken.peak_bytes = max(taken.peak_bytes, sum(map(_proportional_bytes, processes)))
                cpu_s = max(self._cpu_s, sum(map(_cpu_s, processes)))
                taken.cpu_s += cpu_s - self._cpu_s
                self._cpu_s = cpu_s


def _cpu_s(process: psutil.Process) -> float:
    """Own CPU time and that of the children which have ended."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
