"""What the server counts, for Prometheus. Names and meanings: docs/server.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from rstar.answers import Answer
from rstar.server.admission import Admission

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Bounds of the histogram: from what a refusal takes to the default deadline."""
_NO_ROUTE = "none"


class ServerMetrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self, admission: Admission) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "rstar_server_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "rstar_server_request_seconds", "From a request to the end of its answer.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "rstar_server_requests_in_flight", "Requests being answered.", registry=registry
        )
        running = Gauge("rstar_server_searches_running", "Searches at work.", registry=registry)
        running.set_function(lambda: admission.running)
        waiting = Gauge(
            "rstar_server_searches_waiting", "Searches that wait for their turn.", registry=registry
        )
        waiting.set_function(lambda: admission.waiting)
        self._answers = Counter(
            "rstar_server_answers", "Searches that ended, by why, and whether there is an answer.",
            ("stopped_by", "answered"), registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "rstar_server_tokens", "Tokens of prompts, and sampled.", ("kind",), registry=registry
        )
        self._executions = Counter("rstar_server_executions", "Steps run in the sandbox.", registry=registry)

    @contextmanager
    def request(self, scope: MutableMapping[str, Any]) -> Iterator[Request]:
        """Count one request and its time; set `status` of what this gives."""
        request = Request()
        began = time.perf_counter()
        self._in_flight.inc()
        try:
            yield request
        finally:
            self._in_flight.dec()
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            self._requests.labels(route, request.status).inc()
            self._seconds.labels(route).observe(time.perf_counter() - began)

    def answered(self, answer: Answer) -> None:
        """Count what one search took."""
        self._answers.labels(str(answer.stopped_by), str(answer.answer is not None).lower()).inc()
        self._tokens.labels("prompt").inc(answer.cost.prompt_tokens)
        self._tokens.labels("sampled").inc(answer.cost.tokens)
        self._executions.inc(answer.cost.executions)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


class Request:
    """A request being answered."""

    status = 500
