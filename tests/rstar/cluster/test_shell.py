"""Commands on a node of a Ray, from other processes, as launchers of training run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar.cluster import training_slots
from tests.rstar.cluster.nodes import nodes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with nodes(1) as address:
        yield address


@pytest.fixture(scope="module")
def shell(address: str) -> list[str]:
    """What takes the place of `ssh HOST`."""
    (host,) = training_slots(address)
    return [sys.executable, "-m", "rstar.cluster.shell", address, host]


def gone(pid_file: Path, within_s: float = 30.0) -> bool:
    """The process whose number is in the file has ended, or does within so many seconds."""
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} is not written"
        time.sleep(0.05)


def test_input_output_errors_and_exit_code_are_the_commands_and_nothing_else(shell: list[str]) -> None:
    command = "read line; echo \"got $line\"; cat >&2; printf 'a b' ; cd /tmp && pwd; exit 7"
    ran = subprocess.run([*shell, command], input="one\ntwo\nthree\n", capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "got one\na b/tmp\n", "two\nthree\n")


def test_much_output_comes_back_whole(shell: list[str]) -> None:
    ran = subprocess.run([*shell, "seq", "200000"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ran.stdout == "".join(f"{i}\n" for i in range(1, 200001))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_environment_is_the_nodes_own_and_hides_no_gpu(shell: list[str]) -> None:
    ran = subprocess.run([*shell, "env"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    variables = dict(line.split("=", 1) for line in ran.stdout.splitlines() if "=" in line)
    assert variables.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert variables["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_command_and_what_it_started_end_with_the_caller(
    shell: list[str], tmp_path: Path, number: int
) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    command = f"sleep 1000 & echo $! > {inner}; echo $$ > {outer}; wait"
    caller = subprocess.Popen([*shell, command], stdin=subprocess.DEVNULL, start_new_session=True)
    wait_for(outer)
    caller.send_signal(number)
    caller.wait()
    assert gone(outer)
    assert gone(inner)


def test_the_command_ends_with_a_launcher_that_was_killed(shell: list[str], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    launcher = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *shell, f"echo $$ > {pid}; sleep 1000"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(pid)
    launcher.kill()
    launcher.wait()
    assert gone(pid)


def test_an_unknown_host_is_one_line_and_exit_code_255(shell: list[str]) -> None:
    ran = subprocess.run([*shell[:-1], "10.9.8.7", "true"], capture_output=True, text=True)
    assert ran.returncode == 255
    assert ran.stdout == ""
    assert ran.stderr.startswith("rstar.cluster.shell: the Ray cluster at ")
    assert f"has no node 10.9.8.7; it has {shell[-1]}" in ran.stderr
    assert ran.stderr.count("\n") == 1
