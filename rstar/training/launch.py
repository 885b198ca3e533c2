"""One training on many processes: started by torchrun on every machine, watched, and ended together.

    folder/job/
      work.pickle        what is called on every process: a function and its arguments
      agent-0.log        of torchrun on the first machine
      rank-0.log, ...    what each process printed
      failure-0.json     what it failed of
      result.pickle      what the function returned on rank 0

`agent` is the program on each machine, `rank` that of each process. No process outlives the one that launched it, however
that ends. What this file does not do: train, or choose the machines (`hosts`).
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import rstar.errors
from rstar.errors import RstarError, StageError
from rstar.training.hosts import Hosts

T = TypeVar("T")

JOB = "job"
WORK = "work.pickle"
RESULT = "result.pickle"
HOLD = b"hold\n"
"""First line of an agent's standard input. When the input ends after it, whoever launched the agent is gone."""
TERMINAL = "RSTAR_TERMINAL"
"""Environment variable with the terminal that somebody watches, if one does: rank 0 on this machine shows its progress."""
_PASSED_ON = (
    "CUDA_",
    "DS_",
    "GLOO_",
    "HF_",
    "NCCL_",
    "OMP_",
    "PYTHON",
    "TOKENIZERS_",
    "TORCH",
    "TRANSFORMERS_",
)
"""Environment variables that other machines get too begin like this."""
_POLL_S = 0.05
_PATIENCE_S = 3.0
_END_S = 20.0


def is_rank() -> bool:
    """This process is one of several that a launcher (this one, torchrun, DeepSpeed) has started to train together."""
    return "LOCAL_RANK" in os.environ


def launch(
    function: Callable[..., T], /, *, folder: Path, hosts: Hosts, num_threads: int | None, **arguments: Any
) -> T:
    """Call `function(**arguments)` on every process of `hosts`, all at once; returns what rank 0 returns.

    `function` is one of a module; it and its arguments are pickled into `folder`. Raises the project's own error that a
    process raised, or StageError with the first failure in one line.
    """
    job = folder / JOB
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir(parents=True)
    (job / WORK).write_bytes(pickle.dumps((function, arguments)))
    port = hosts.port or _free_port()
    with _agents(job.resolve(), hosts, port, num_threads) as agents:
        while all(agent.poll() in (None, 0) for agent in agents) and not _all_ended(agents):
            time.sleep(_POLL_S)
        failed = any(agent.poll() for agent in agents)
        patience = time.monotonic() + _PATIENCE_S
        while failed and not _all_ended(agents) and time.monotonic() < patience:
            time.sleep(_POLL_S)  # the first to end need not be where it went wrong
    if failed or not (job / RESULT).exists():
        raise _first_failure(job, [agent.returncode for agent in agents])
    result: T = pickle.loads((job / RESULT).read_bytes())
    shutil.rmtree(job)
    return result


def _all_ended(agents: list[subprocess.Popen[bytes]]) -> bool:
    return all(agent.poll() is not None for agent in agents)


@contextmanager
def _agents(
    job: Path, hosts: Hosts, port: int, num_threads: int | None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One agent per machine; at the end none is left, nor any process that it started."""
    agents: list[subprocess.Popen[bytes]] = []
    try:
        for index, (host, slots) in enumerate(hosts.slots.items()):
            place = [str(index), str(len(hosts.slots)), str(slots), hosts.address, str(port)]
            command = [sys.executable, "-m", "rstar.training.agent", str(job), *place]
            with (job / f"agent-{index}.log").open("w") as log:
                agent = _start(command, host, hosts, _threads(num_threads, slots), log)
            agents.append(agent)
            assert agent.stdin is not None
            with suppress(BrokenPipeError):  # it has ended already; its log says why
                agent.stdin.write(HOLD)
        yield agents
    finally:
        for agent in agents:
            assert agent.stdin is not None
            agent.stdin.close()
        for agent in agents:
            try:
                agent.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def _start(
    command: list[str], host: str, hosts: Hosts, threads: Mapping[str, str], output: Any
) -> subprocess.Popen[bytes]:
    environment = {**threads, **os.environ}
    if sys.stderr.isatty():
        environment[TERMINAL] = os.ttyname(sys.stderr.fileno())
    if not (here := hosts.is_here(host)):
        passed = [f"{key}={value}" for key, value in environment.items() if key.startswith(_PASSED_ON)]
        line = f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*passed, *command])}"
        command = [*hosts.remote_shell, host, line]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            bufsize=0,
            env=environment if here else None,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them in order
        )
    except OSError as error:
        raise StageError(f"cannot start a training on {host}: {command[0]}: {error.strerror}") from None


def _threads(num_threads: int | None, slots: int) -> dict[str, str]:
    """Without a number every process would start as many threads as there are cores."""
    return {"OMP_NUM_THREADS": str(num_threads or max(1, len(os.sched_getaffinity(0)) // slots))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def record_failure(job: Path, rank: int, error: BaseException | int, at: float | None = None) -> None:
    """Leave behind what a process failed of: an exception, or the signal that killed it."""
    own = isinstance(error, RstarError)
    told = {
        "at": time.time() if at is None else at,
        "rank": rank,
        "signal": error if isinstance(error, int) else None,
        "kind": type(error).__name__ if own else None,
        "message": str(error) if own else f"{type(error).__name__}: {_first_line(error)}",
    }
    name = f"failure-{rank}.json" if not isinstance(error, int) else f"failure-{rank}-signal.json"
    partial = job / f"{name}.partial"
    partial.write_text(json.dumps(told))
    partial.replace(job / name)


def _first_line(error: BaseException | int) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _first_failure(job: Path, exits: list[int | None]) -> RstarError:
    """A process that was killed takes the others' connections with it, so a signal comes before any exception."""
    found = [json.loads(path.read_text()) for path in job.glob("failure-*.json")]
    if not found:
        log = next((f"agent-{index}.log" for index, status in enumerate(exits) if status), "agent-0.log")
        tail = _tail(job / log)
        return StageError(f"the training's processes did not start: {tail} (see {job / log})")
    first = min(found, key=lambda one: (one["signal"] is None, one["at"]))
    rank = first["rank"]
    if first["signal"] is not None:
        reason = " (out of memory?)" if first["signal"] == 9 else ""
        return StageError(
            f"process {rank} of the training was killed by signal {first['signal']}{reason}; see {job}/rank-{rank}.log"
        )
    if first["kind"] is not None:
        error: RstarError = getattr(rstar.errors, first["kind"])(first["message"])
        return error
    return StageError(f"process {rank} of the training failed: {first['message']}; see {job}/rank-{rank}.log")


def _tail(log: Path) -> str:
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if log.exists()
        else []
    )
    return lines[-1] if lines else "no message"
