"""A pool of shards behind `rstar.protocols.Sandbox`.

Trees are spread over the shards by their group; a group's states live in one shard. A request names its state by the
whole history, so a state that was evicted, a shard that died and a tree that moved are the same event: replay.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rstar import logs
from rstar.errors import SandboxError
from rstar.protocols import ExecutionResult, ExecutionVerdict, RunRequest
from rstar.sandbox import kernel, wire
from rstar.sandbox.config import SandboxConfig
from rstar.sandbox.report import IsolationReport
from rstar.sandbox.shard import Reply, Shard, ShardLostError

events = logs.events(__name__)

MAX_SHARD_LOSSES = 3
"""How often one step is run again after its shard was lost, before the sandbox is said to have failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStats:
    """What a pool has done so far."""

    steps: int
    """Requests answered."""
    verdicts: dict[str, int]
    """How many of each verdict."""
    in_flight: int
    groups: int
    """Groups that were used and not released."""
    replayed_steps: int
    """Ancestor steps run again: after an eviction, a lost shard, or a promotion to the heavy zygote."""
    nondeterministic_steps: int
    """Replays that printed something else than the first time."""
    live_snapshots: int
    evictions: int
    shard_losses: int
    cpu_s: float
    """CPU seconds of the steps themselves."""


class SandboxPool:
    """Executes steps in isolated, stateful interpreters (`rstar.protocols.Sandbox`). Usable from any event loop.

        async with SandboxPool(SandboxConfig(cpu_s=2.0)) as sandbox:
            result = await sandbox.run(RunRequest(code="print(x + 1)", history=("x = 41",), group="tree-1"))

    It starts with the first `run`, or earlier with `start`. `_without` switches isolation layers off, for tests.
    """

    def __init__(self, config: SandboxConfig | None = None, *, _without: Collection[str] = ()) -> None:
        self.config = config or SandboxConfig()
        self._shards = [Shard(self.config, index, _without) for index in range(self.config.shards)]
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._report: IsolationReport | None = None
        self._closed = False
        self._shard_of: dict[str, int] = {}
        self._num_groups = [0] * len(self._shards)
        self._verdicts: Counter[ExecutionVerdict] = Counter()
        self._in_flight = 0
        self._replayed_steps = 0
        self._shard_losses = 0
        self._cpu_s = 0.0
        self._latest: dict[int, tuple[int, int, int]] = {}
        self._before_losses = [0, 0]

    async def start(self) -> IsolationReport:
        """Start the shards and probe the isolation layers; a second call only returns the report.

        Warns once, in one line, about missing layers. Raises SandboxError if the pool was closed or cannot start, if
        a layer is missing and the settings are strict, or if there is no system-call filter.
        """
        if self._report is None:
            await asyncio.get_running_loop().run_in_executor(None, self._start)
        assert self._report is not None
        return self._report

    def _start(self) -> None:
        with self._starting:
            if self._report is not None:
                return
            if self._closed:
                raise SandboxError("the sandbox was closed; make a new SandboxPool")
            if not kernel.IS_LINUX:
                raise SandboxError("the sandbox needs Linux; run it in a Linux container or virtual machine")
            if not kernel.IS_FULL_PATH and not self.config.allow_unsafe:
                raise SandboxError(
                    "there is no system-call filter for this processor; sandbox.allow_unsafe=True runs steps without"
                )
            errors: list[SandboxError] = []
            threads = [threading.Thread(target=_start_shard, args=(shard, errors)) for shard in self._shards]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            report = self._shards[0].report
            if errors or report is None:
                self._close_shards()
                raise errors[0]
            self._judge(report)
            self._report = report

    def _judge(self, report: IsolationReport) -> None:
        has_filter = all(layer.held for layer in report.layers if layer.name.startswith("system-call filter"))
        refusal = ""
        if not has_filter and not self.config.allow_unsafe:
            refusal = "no system-call filter on this machine; sandbox.allow_unsafe=True runs steps without"
        elif self.config.strict and not report.complete:
            refusal = f"an isolation layer is missing and sandbox.strict=True: {report.warning()}"
        if refusal:
            self._close_shards()
            raise SandboxError(refusal)
        if not report.complete:
            warnings.warn(report.warning(), RuntimeWarning, stacklevel=2)
            for name, _, consequence in report.rows():
                if consequence:
                    events.warning("sandbox layer missing", said=True, layer=name, consequence=consequence)

    async def run(self, request: RunRequest) -> ExecutionResult:
        """Run one step (see `RunRequest`). Equal requests of a group that run at the same time share one execution.

        Raises SandboxError only if the sandbox itself failed.
        """
        if self._report is None:
            await self.start()
        if self._closed:
            raise SandboxError("the sandbox was closed; make a new SandboxPool")
        too_long = self._too_long(request)
        if too_long is not None:
            return too_long
        flags = (wire.KEEP_STATE if request.keep_state else 0) | (
            wire.LAST_CHILD if request.last_child else 0
        )
        index = self._assign(request.group)
        self._in_flight += 1
        try:
            reply = await self._request(index, flags, request.group, (*request.history, request.code))
        finally:
            self._in_flight -= 1
        return self._result(index, reply)

    def _too_long(self, request: RunRequest) -> ExecutionResult | None:
        limit = self.config.max_code_chars
        if len(request.code) <= limit:
            return None
        self._verdicts[ExecutionVerdict.ERROR] += 1
        error = f"the step's code has {len(request.code)} characters; at most {limit} are run"
        return ExecutionResult(verdict=ExecutionVerdict.ERROR, error=error)

    def _assign(self, group: str) -> int:
        index = self._shard_of.get(group)
        if index is None:
            with self._lock:
                index = self._shard_of.get(group)
                if index is None:
                    index = min(range(len(self._shards)), key=self._num_groups.__getitem__)
                    self._shard_of[group] = index
                    self._num_groups[index] += 1
        return index

    async def _request(self, index: int, flags: int, group: str, codes: tuple[str, ...]) -> Reply:
        shard = self._shards[index]
        for _ in range(MAX_SHARD_LOSSES):
            generation = shard.generation
            try:
                return await shard.connection().request(flags, group, codes)
            except ShardLostError:
                if self._closed:
                    raise SandboxError("the sandbox was closed while a step was running") from None
                self._note_loss(index, generation)
                events.warning("sandbox shard restarted", shard=index)
                await asyncio.get_running_loop().run_in_executor(None, shard.start, generation)
        raise SandboxError(
            f"the sandbox ended {MAX_SHARD_LOSSES} times while it ran one step; its messages are on standard error"
        )

    def _note_loss(self, index: int, generation: int) -> None:
        with self._lock:
            if self._shards[index].generation == generation and index in self._latest:
                _, evictions, odd = self._latest.pop(index)
                self._before_losses[0] += evictions
                self._before_losses[1] += odd
        self._shard_losses += 1

    def _result(self, index: int, reply: Reply) -> ExecutionResult:
        verdict = wire.VERDICTS[reply.verdict]
        self._verdicts[verdict] += 1
        self._replayed_steps += reply.replayed
        self._cpu_s += reply.cpu_s
        self._latest[index] = (reply.live_snapshots, reply.evictions, reply.nondeterministic_steps)
        stdout = reply.stdout.decode("utf-8", "replace")
        error = " ".join(reply.error.decode("utf-8", "replace").split())
        if verdict is ExecutionVerdict.OUTPUT_LIMIT:
            error = f"wrote more than {self.config.hard_output_chars} characters"
        return ExecutionResult(
            verdict=verdict,
            stdout=stdout[: self.config.max_output_chars],
            error="" if verdict is ExecutionVerdict.OK else error,
            truncated_chars=reply.truncated,
            cpu_s=reply.cpu_s,
            wall_s=reply.wall_s,
            replayed_steps=reply.replayed,
        )

    def release(self, group: str) -> None:
        """Forget all state of a group. Unknown groups are fine."""
        with self._lock:
            index = self._shard_of.pop(group, None)
            if index is None:
                return
            self._num_groups[index] -= 1
        self._shards[index].release(group)

    def stats(self) -> SandboxStats:
        """Counts since the start."""
        latest = list(self._latest.values())
        return SandboxStats(
            steps=self._verdicts.total(),
            verdicts={verdict.value: count for verdict, count in self._verdicts.items()},
            in_flight=self._in_flight,
            groups=len(self._shard_of),
            replayed_steps=self._replayed_steps,
            nondeterministic_steps=self._before_losses[1] + sum(item[2] for item in latest),
            live_snapshots=sum(item[0] for item in latest),
            evictions=self._before_losses[0] + sum(item[1] for item in latest),
            shard_losses=self._shard_losses,
            cpu_s=self._cpu_s,
        )

    async def aclose(self) -> None:
        """End every process of the pool and wait for it. A closed pool stays closed."""
        self._closed = True
        for shard in self._shards:
            shard.disconnect()
        await asyncio.get_running_loop().run_in_executor(None, self._close_shards)

    def _close_shards(self) -> None:
        for shard in self._shards:
            shard.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _start_shard(shard: Shard, errors: list[SandboxError]) -> None:
    try:
        shard.start()
    except SandboxError as error:
        errors.append(error)
