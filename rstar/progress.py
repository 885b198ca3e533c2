"""How a search is getting on: one set of numbers for the terminal, for the run's folder and for reports."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rstar import logs
from rstar.evaluation import SearchCounts
from rstar.protocols import ExecutionVerdict
from rstar.search import SearchResult

REFRESH_S = 0.5
PLAIN_REFRESH_S = 15.0
"""Between lines where the output is no terminal."""

SHOWN: dict[str, SearchProgress] = {}
"""The searches of this process by label, those that have ended too: what metrics are read from."""
events = logs.events(__name__)


class SearchProgress:
    """Shows a running search; use as a context manager around it, and tell it each finished tree.

    In a terminal a live panel, elsewhere a line now and then. The same numbers go to `file` (JSON) as they change. Where
    no answer is verified (`verifies`), nothing is said of what is solved.
    """

    def __init__(
        self,
        label: str,
        num_trees: int,
        counts: SearchCounts,
        *,
        already_done: int = 0,
        verifies: bool = True,
        file: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self.label = label
        self.num_trees = num_trees
        self.counts = counts
        self.file = file
        self.console = console or Console(stderr=True)
        self.already_done = already_done
        self.verifies = verifies
        self.done = 0
        self.parked = 0
        self.trees_by_level: Counter[str] = Counter()
        self.solved_by_level: Counter[str] = Counter()
        self._began = time.monotonic()
        self._shown = 0.0
        self._live = Live(
            get_renderable=self._render,
            console=self.console,
            refresh_per_second=1 / REFRESH_S,
            transient=True,
        )

    def __enter__(self) -> SearchProgress:
        SHOWN[self.label] = self
        events.info("search begun", search=self.label, trees=self.num_trees, already_done=self.already_done)
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()
        self._write()
        numbers = self.numbers()
        ended = {
            name: numbers[name]
            for name in ("trees_done", "trees_parked", "coverage", "nodes", "tokens", "executions")
        }
        events.info("search ended", search=self.label, seconds=round(numbers["seconds"], 1), **ended)
        if kind is None:
            self.console.print(self._line(), highlight=False)

    def add(self, result: SearchResult, level: str) -> None:
        """A tree has ended."""
        if result.fault:
            self.parked += 1
            self.console.print(f"parked {result.tree.name}: {result.fault}", style="yellow", highlight=False)
            events.warning(
                "tree parked", said=True, search=self.label, tree=result.tree.name, error=result.fault
            )
        else:
            self.done += 1
            if self.verifies:
                self.trees_by_level[level] += 1
                self.solved_by_level[level] += result.tree.solved
        now = time.monotonic()
        if now - self._shown >= (REFRESH_S if self._live.is_started else PLAIN_REFRESH_S):
            self._shown = now
            self._write()
            if not self._live.is_started:
                self.console.print(self._line(), highlight=False)

    def numbers(self) -> dict[str, Any]:
        """Everything that is shown, as plain values. Rates are per second of wall time since the start."""
        seconds = max(1e-9, time.monotonic() - self._began)
        executions = sum(self.counts.executions.values())
        waiting = self.num_trees - self.already_done - self.done - self.parked
        solved, searched = self.solved_by_level.total(), self.trees_by_level.total()
        return {
            "trees": self.num_trees,
            "trees_done": self.already_done + self.done,
            "trees_parked": self.parked,
            "trees_in_flight": self.counts.trees_in_flight,
            "coverage": solved / searched if searched else None,
            "coverage_by_level": {
                level: self.solved_by_level[level] / count
                for level, count in sorted(self.trees_by_level.items())
            },
            "seconds": seconds,
            "seconds_left": seconds * waiting / self.done if self.done else None,
            "rollouts": self.counts.rollouts,
            "nodes": self.counts.nodes,
            "nodes_per_second": self.counts.nodes / seconds,
            "tokens": self.counts.tokens,
            "tokens_per_second": self.counts.tokens / seconds,
            "executions": executions,
            "executions_per_second": executions / seconds,
            "executions_by_verdict": {str(v): n for v, n in sorted(self.counts.executions.items())},
            "terminals": {str(reason): n for reason, n in sorted(self.counts.terminals.items())},
            "own_outputs": self.counts.own_outputs,
            "retries": self.counts.retries,
            "workers": {name: asdict(one) for name, one in self.counts.workers.items()},
        }

    def _write(self) -> None:
        if self.file is not None:
            temporary = self.file.with_name(f".{self.file.name}.tmp")
            temporary.write_text(json.dumps(self.numbers(), indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.file)

    def _line(self) -> str:
        n = self.numbers()
        coverage = f" {n['coverage']:.1%} solved," if n["coverage"] is not None else ""
        left = "" if not n["seconds_left"] else f", {_clock(n['seconds_left'])} left"
        workers = "" if not self.counts.workers else f", {_workers(self._alive())}"
        return (
            f"{self.label}: {n['trees_done']}/{n['trees']} trees,{coverage} "
            f"{n['nodes']:,} nodes ({n['nodes_per_second']:,.0f}/s), {n['tokens']:,} tokens ({n['tokens_per_second']:,.0f}/s), "
            f"{n['executions']:,} executions ({n['executions_per_second']:,.0f}/s), {_clock(n['seconds'])}{left}{workers}"
        )

    def _render(self) -> RenderableType:
        n = self.numbers()
        bar = Table.grid(padding=(0, 1))
        left = f"{_clock(n['seconds_left'])} left" if n["seconds_left"] is not None else ""
        bar.add_row(
            Text(self.label, style="bold"),
            ProgressBar(total=n["trees"], completed=n["trees_done"], width=32),
            f"{n['trees_done']}/{n['trees']} trees",
            Text(f"{_clock(n['seconds'])}  {left}", style="dim"),
        )
        rates = Table.grid(padding=(0, 2))
        rates.add_row(
            f"{n['nodes_per_second']:,.0f} nodes/s",
            f"{n['tokens_per_second']:,.0f} tokens/s",
            f"{n['executions_per_second']:,.0f} executions/s",
            Text(f"{self._share(ExecutionVerdict.OK):.0%} run cleanly", style="dim"),
            Text(f"{self.parked} parked", style="yellow") if self.parked else "",
            Text(_workers(self._alive()), style="dim") if self.counts.workers else "",
        )
        coverage = Text("solved  " if n["coverage_by_level"] else "")
        for level, share in n["coverage_by_level"].items():
            coverage.append(f"{level or 'all'} {share:.0%}   ", style="green")
        return Group(bar, rates, coverage)

    def _alive(self) -> int:
        return sum(one.alive for one in self.counts.workers.values())

    def _share(self, verdict: ExecutionVerdict) -> float:
        return self.counts.executions[verdict] / max(1, self.counts.executions.total())


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
