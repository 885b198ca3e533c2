"""What round 1 of the embedded recipe takes on this machine, and what the policy learns from it.

    python -m benchmarks.bench_round1                 # one run: wall time by stage, CPU time, peak memory
    python -m benchmarks.bench_round1 --seeds 0 1 2   # the same for several seeds, with the mean and spread of accuracy

Memory is the peak of proportional set sizes (shared pages counted once) over the whole process tree, sampled once a
second. Each run starts from nothing in a temporary folder, or goes on in --folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from policy.statistics import pass_rates
from rounds.machine import describe_machine
from rounds.searching import outcomes

LEVELS = ("easy", "medium", "olympiad")


@dataclass(frozen=True)
class Run:
    """One finished round 1."""

    seed: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    stages: dict[str, dict[str, Any]]
    """Stage to its summary and seconds, as `rstar round --json` prints them."""
    base: dict[str, float]
    """Level to greedy pass@1."""
    trained: dict[str, float]
    coverage: dict[str, float]


def main() -> None:
    """Run and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        runs = [run_round(seed, folder / f"seed{seed}", arguments.settings) for seed in arguments.seeds]
    print(f"Machine: {describe_machine()}\n")
    print(cost_table(runs))
    print(accuracy_table(runs))


def run_round(seed: int, folder: Path, settings: Sequence[str]) -> Run:
    """Run round 1 in a process of its own and watch its memory."""
    options = [argument for setting in (f"seed={seed}", *settings) for argument in ("--set", setting)]
    command = [sys.executable, "-m", "rounds.cli", "round", "1", "--json", "--run", str(folder), *options]
    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    out, _ = process.communicate()
    wall_s, after = time.monotonic() - began, os.times()
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    coverage = json.loads(out)["round1/search"]["summary"]["coverage"]
    return Run(
        seed=seed,
        wall_s=wall_s,
        cpu_s=sum(after[2:4]) - sum(before[2:4]),
        peak_bytes=memory.stop(),
        stages=json.loads(out),
        base=_rates(folder / "base/evaluation/store"),
        trained=_rates(folder / "round1/evaluation/store"),
        coverage={level: coverage[level]["solved"] / coverage[level]["problems"] for level in coverage},
    )


class PeakMemory:
    """Samples the memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(self._pid)
                self._peak = max(self._peak, sum(map(_pss, [root, *root.children(recursive=True)])))


def _pss(process: psutil.Process) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def cost_table(runs: Sequence[Run]) -> str:
    """Wall time by stage, CPU time, peak memory, per seed."""
    stages = [name for name in runs[0].stages if runs[0].stages[name]["seconds"] >= 0.5]
    header = ["seed", "wall", *stages, "CPU, children included", "peak memory"]
    rows = [
        [str(run.seed), f"{run.wall_s:.0f} s", *(f"{run.stages[name]['seconds']:.0f} s" for name in stages),
         f"{run.cpu_s:.0f} s", f"{run.peak_bytes / 2**30:.2f} GiB"]
        for run in runs
    ]  # fmt: skip
    return markdown(header, rows)


def accuracy_table(runs: Sequence[Run]) -> str:
    """Per level: coverage of training problems, greedy pass@1 of base and r1; mean over seeds and spread."""
    rows = []
    for level in LEVELS:
        base, trained = [run.base[level] for run in runs], [run.trained[level] for run in runs]
        ratio = statistics.mean(trained) / statistics.mean(base) if any(base) else float("inf")
        coverage = [run.coverage[level] for run in runs]
        rows.append([level, _spread(coverage), _spread(base), _spread(trained), f"{ratio:.2f}×"])
    return markdown(
        ["level", "coverage by search", "base, greedy pass@1", "r1, greedy pass@1", "r1 / base"], rows
    )


def _spread(values: Sequence[float]) -> str:
    mean = 100 * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f} %"
    return f"{mean:.1f} % ({100 * min(values):.1f}–{100 * max(values):.1f})"


def _rates(store: Path) -> dict[str, float]:
    return {rate.level: rate.rate for rate in pass_rates(outcomes(store).values(), levels=LEVELS)}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
