"""Processes start together, on one machine or several, fail in one line, and never outlive who launched them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rstar.errors import ConfigError, StageError
from rstar.training.hosts import LOCAL, Hosts
from rstar.training.launch import JOB, launch
from tests.rstar.training import spread_work

TWO = Hosts(slots={LOCAL: 2})


def test_every_process_runs_the_function_and_the_first_ones_result_comes_back(tmp_path: Path) -> None:
    found = launch(spread_work.place, folder=tmp_path, hosts=TWO, num_threads=1, given=7)
    assert found == {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "given": 7}
    assert not (tmp_path / JOB).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (spread_work.refuse_on_second, ConfigError, r"^that does not fit$"),
        (
            spread_work.fail_on_second,
            StageError,
            r"^process 1 of the training failed: MemoryError: no room left; see .*/job/rank-1\.log$",
        ),
        (
            spread_work.die_on_second,
            StageError,
            r"^process 1 of the training was killed by signal 9 \(out of memory\?\); see .*/job/rank-1\.log$",
        ),
    ],
)
def test_the_first_failure_ends_the_others_and_is_one_line(
    tmp_path: Path, work: Callable[[], None], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        launch(work, folder=tmp_path, hosts=TWO, num_threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_one_that_launched_it(
    tmp_path: Path, repository: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tests.rstar.training.spread_work", str(tmp_path)]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL) as launcher:
        notes = [tmp_path / f"process-{rank}" for rank in range(2)]
        while not all(note.exists() and note.read_text().count(" ") for note in notes):
            assert launcher.poll() is None
            time.sleep(0.05)
        started = {int(pid) for note in notes for pid in note.read_text().split()}
        assert len(started) == 3, "two processes and their agent"
        launcher.send_signal(number)
    while any(_runs(pid) for pid in started):  # pytest's own time-out is the limit
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def remote_shell(folder: Path, action: str = 'shift; exec sh -c "$1"') -> tuple[str, ...]:
    """A command that takes a machine's name and a command line, as ssh does."""
    script = folder / "shell"
    script.write_text(f'#!/bin/sh\necho "$1" >> {folder}/asked\n{action}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return (str(script),)


@pytest.mark.slow
def test_machines_are_reached_by_the_remote_shell_and_train_together(tmp_path: Path) -> None:
    hosts = Hosts(slots={"127.0.0.2": 1, "127.0.0.3": 1}, remote_shell=remote_shell(tmp_path))
    found = launch(spread_work.place, folder=tmp_path, hosts=hosts, num_threads=1)
    assert found == {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0}
    assert sorted((tmp_path / "asked").read_text().split()) == ["127.0.0.2", "127.0.0.3"]


def test_a_machine_that_cannot_be_reached_is_one_clear_line(tmp_path: Path) -> None:
    shell = remote_shell(tmp_path, "echo no route to host >&2; exit 255")
    with pytest.raises(StageError, match=r"^the training's processes did not start: no route to host \(see "):
        launch(
            spread_work.place,
            folder=tmp_path,
            hosts=Hosts(slots={"far-away": 2}, remote_shell=shell),
            num_threads=1,
        )
    with pytest.raises(
        StageError, match=r"^cannot start a training on far-away: no-such-shell: No such file"
    ):
        launch(
            spread_work.place,
            folder=tmp_path,
            hosts=Hosts(slots={"far-away": 2}, remote_shell=("no-such-shell",)),
            num_threads=1,
        )


def test_threads_are_divided_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from rstar.training import launch as module

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    assert module._threads(None, 4) == {"OMP_NUM_THREADS": "1"}
    assert module._threads(None, 2) == {"OMP_NUM_THREADS": "3"}
    assert module._threads(2, 4) == {"OMP_NUM_THREADS": "2"}
