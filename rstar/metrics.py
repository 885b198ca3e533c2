"""The numbers of a running search or round for Prometheus, at `http://HOST:PORT/metrics`; off unless asked for.

They are read when they are scraped: of searches what `rstar.progress` shows, of everything else the events of `rstar.logs`,
counted by name. See docs/operations.md for the table.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rstar import logs, progress
from rstar.errors import ConfigError

LOCAL = "127.0.0.1"
_BEGUN, _ENDED = "stage begun", ("stage done", "stage failed")


class EventCounts(logging.Handler):
    """Counts events by name and level, and knows which stages run."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.running: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of one event."""
        event = logs.name_of(record)
        self.counts[event, record.levelname.lower()] += 1
        stage = str(logs.fields_of(record).get("stage", ""))
        if event == _BEGUN:
            self.running.add(stage)
        elif event in _ENDED:
            self.running.discard(stage)


class RunCollector(Collector):
    """All metrics of this process, as of now."""

    def __init__(self, events: EventCounts) -> None:
        self._events = events

    def collect(self) -> Iterable[Metric]:
        """A family per metric, a sample per search, verdict, reason, level or event."""
        searches = {label: shown.numbers() for label, shown in progress.SHOWN.items()}
        yield _family(
            GaugeMetricFamily, "rstar_search_trees", "Trees by state.", ("search", "state"), searches,
            lambda n: {
                "all": n["trees"], "done": n["trees_done"], "parked": n["trees_parked"], "in_flight": n["trees_in_flight"],
            },
        )  # fmt: skip
        yield _family(
            GaugeMetricFamily, "rstar_search_coverage_ratio", "Share of searched trees with a verified answer.",
            ("search", "level"), searches, lambda n: n["coverage_by_level"],
        )  # fmt: skip
        for name, what in (
            ("rollouts", "Rollouts done."),
            ("nodes", "Nodes added to trees."),
            ("tokens", "Tokens sampled from the policy."),
            ("retries", "Questions to a back-end, sandbox or grader that were asked again."),
        ):
            family = CounterMetricFamily(f"rstar_search_{name}", what, labels=("search",))
            for label, numbers in searches.items():
                family.add_metric((label,), numbers[name])
            yield family
        yield _family(
            CounterMetricFamily, "rstar_search_executions", "Steps run in the sandbox, by verdict.",
            ("search", "verdict"), searches, lambda n: n["executions_by_verdict"],
        )  # fmt: skip
        yield _family(
            CounterMetricFamily, "rstar_search_terminals", "Nodes at which a branch ended, by reason.",
            ("search", "reason"), searches, lambda n: n["terminals"],
        )  # fmt: skip
        stages = GaugeMetricFamily(
            "rstar_stage_running", "1 for each stage that is at work.", labels=("stage",)
        )
        for stage in sorted(self._events.running):
            stages.add_metric((stage,), 1)
        yield stages
        counted = CounterMetricFamily("rstar_events", "Events of the log.", labels=("event", "level"))
        for labels, count in sorted(self._events.counts.items()):
            counted.add_metric(labels, count)
        yield counted


@contextmanager
def serve(address: str) -> Iterator[str]:
    """While open, answer at `[HOST:]PORT` (without a host, to this machine alone; port 0: any free one). Gives the URL.

    Raises ConfigError for what is no address, or one that is taken.
    """
    host, port = _read_address(address)
    events = EventCounts()
    registry = CollectorRegistry()
    registry.register(RunCollector(events))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(f"--metrics {address}: cannot listen there: {error.strerror}") from None
    root = logging.getLogger(logs.ROOT)
    root.addHandler(events)
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        root.removeHandler(events)
        server.shutdown()
        server.server_close()
        thread.join()


def _read_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--metrics is {address!r}; it must be a port, or HOST:PORT")
    return host or LOCAL, int(port)


def _family(
    kind: type[Any],
    name: str,
    what: str,
    labels: tuple[str, str],
    searches: dict[str, dict[str, Any]],
    part: Any,
) -> Metric:
    """One metric with a sample per search and per key of what `part` takes from its numbers."""
    family: Metric = kind(name, what, labels=labels)
    for search, numbers in searches.items():
        for key, value in part(numbers).items():
            family.add_metric((search, key), value)  # type: ignore[attr-defined]
    return family
