"""The solver as the server uses it: opened while the server already listens, asked by many at once, stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import StrEnum

from rstar.answers import Answer, Event, Finished
from rstar.errors import RstarError
from rstar.server.admission import Admission
from rstar.server.config import ServerConfig
from rstar.server.errors import ApiError
from rstar.server.metrics import ServerMetrics
from rstar.server.trees import Trees
from rstar.solver import Solver
from rstar.tree import ROOT, TerminalReason


class State(StrEnum):
    """Of the server."""

    STARTING = "starting"
    """Models are being loaded; searches wait for them."""
    READY = "ready"
    STOPPING = "stopping"
    """Running searches answer with what they know; new ones are refused."""
    FAILED = "failed"
    """The solver could not be opened; the server ends."""


class Service:
    """A solver, and who may ask it. Lives in the server's event loop."""

    def __init__(
        self, solver: Solver, config: ServerConfig, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self.solver, self.config = solver, config
        self.admission = Admission(config)
        self.metrics = ServerMetrics(self.admission)
        self.trees = Trees(config.kept_trees)
        self.state = State.STARTING
        self.failure: RstarError | None = None
        self._on_failure = on_failure

    async def open(self) -> None:
        """Open the solver. If that fails, `failure` says why and `on_failure` is called."""
        try:
            await asyncio.to_thread(self.solver.open)
        except RstarError as error:
            self.state, self.failure = State.FAILED, error
            self._on_failure()
        else:
            if self.state is State.STARTING:
                self.state = State.READY

    def stop(self) -> None:
        """Take no new searches, and have those that run answer with what they know."""
        if self.state is not State.FAILED:
            self.state = State.STOPPING
        self.admission.closed = True
        self.solver.interrupt()

    async def events(self, search_id: str, question: str, solver: Solver) -> AsyncGenerator[Event, None]:
        """The events of one admitted search, when its turn has come. Raises ApiError, or as `Solver.stream`."""
        async with self.admission.turn():
            shown = self.trees.begin(search_id, question)
            try:
                async with aclosing(solver.stream(question)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            shown.answer = event.answer
                            self._take_note(event.answer)
                        else:
                            shown.tree = event.tree
                        yield event
            finally:
                self.trees.end(shown)

    def _take_note(self, answer: Answer) -> None:
        self.metrics.answered(answer)
        if answer.tree.nodes[ROOT].terminal is TerminalReason.CONTEXT_OVERFLOW:
            raise ApiError(
                400, "the question leaves no room in the model's context for an answer; ask a shorter one",
                code="context_length_exceeded",
            )  # fmt: skip
