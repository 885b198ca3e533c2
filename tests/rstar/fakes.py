"""In-process stand-ins that make search properties exact: no processes, no clock. Only for scripted programs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

from rstar.protocols import ExecutionResult, ExecutionVerdict, Reward, RunRequest


class InProcessSandbox:
    """Replays the whole history for every step: the naive reference of a sandbox's contract."""

    def __init__(self) -> None:
        self.requests: list[RunRequest] = []
        self.released: list[str] = []

    async def run(self, request: RunRequest) -> ExecutionResult:
        self.requests.append(request)
        state: dict[str, object] = {}
        stdout = io.StringIO()
        for code in request.history:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, state)
        try:
            with contextlib.redirect_stdout(stdout):
                exec(request.code, state)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return ExecutionResult(verdict=ExecutionVerdict.ERROR, stdout=stdout.getvalue(), error=message)
        return ExecutionResult(verdict=ExecutionVerdict.OK, stdout=stdout.getvalue())

    def release(self, group: str) -> None:
        self.released.append(group)

    async def aclose(self) -> None:
        pass


class TextJudge:
    """Answers are equal if their texts are; with a reference, right is +1 and wrong -1; without one, nobody knows."""

    def __init__(self, reference: str | None) -> None:
        self.reference = reference

    async def equal(self, answers: Sequence[str]) -> list[int]:
        order = list(dict.fromkeys(answers))
        return [order.index(answer) for answer in answers]

    async def judge(self, answer: str) -> Reward | None:
        if self.reference is None:
            return None
        right = answer == self.reference
        return Reward(value=1.0 if right else -1.0, verified=right)
