"""Adversarial programs: the verdict is right, the pool lives on, nothing is left, nothing outside is touched.

Faults 2 and 3 of the project's list of faults seen in released code are here by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rstar.protocols import ExecutionVerdict
from rstar.sandbox import SandboxPool
from tests.rstar.sandbox.conftest import Program
from tests.rstar.sandbox.hostile import CASES

OK, ERROR = ExecutionVerdict.OK, ExecutionVerdict.ERROR


def server_of(pool: SandboxPool) -> psutil.Process:
    """The first shard's server process."""
    pid = pool._shards[0].pid
    assert pid is not None
    return psutil.Process(pid)


def interpreters_of(pool: SandboxPool) -> dict[int, str]:
    """pid -> status of every process under the pool's first server."""
    found: dict[int, str] = {}
    for process in server_of(pool).children(recursive=True):
        try:
            found[process.pid] = process.status()
        except psutil.NoSuchProcess:
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="module")
def resting(pool: SandboxPool) -> set[int]:
    """The processes of the pool when it holds no state."""
    assert wait_until(lambda: len(interpreters_of(pool)) == 3), "the pause process and two zygotes"
    return set(interpreters_of(pool))


@pytest.mark.parametrize("name", CASES)
def test_fault_2_hostile_program(
    pool: SandboxPool, group: str, run: Program, resting: set[int], tmp_path: Path, name: str
) -> None:
    program, expected = CASES[name]
    outside = tmp_path / "outside.txt"
    outside.write_text("untouched")
    outside.chmod(0o666)
    steps = (program,) if isinstance(program, str) else program
    codes = tuple(
        code.replace("{outside!r}", repr(str(outside))) if "{outside!r}" in code else code for code in steps
    )
    losses = pool.stats().shard_losses
    for depth in range(1, len(codes)):
        assert run(*codes[:depth]).verdict is OK
    result = run(*codes)
    assert result.verdict in expected, result
    assert (result.error == "") == (result.verdict is OK)
    assert "\n" not in result.error
    if result.verdict is ExecutionVerdict.TIMEOUT:
        assert result.cpu_s <= pool.config.cpu_s + 0.5

    assert run("print('ordinary')").stdout == "ordinary\n"
    pool.release(group)
    assert wait_until(lambda: set(interpreters_of(pool)) == resting), interpreters_of(pool)
    assert pool.stats().shard_losses == losses
    assert (outside.read_text(), outside.stat().st_mode & 0o777) == ("untouched", 0o666)
    assert [path.name for path in tmp_path.iterdir()] == ["outside.txt"]


@pytest.mark.parametrize(
    "code",
    [
        "print('margin of error: 3')",
        "print('Traceback (most recent call last):\\nValueError: no')",
        "# \\boxed{7} <end_of_answer>\nprint('boxed')",
        "print('timeout')",
        "raise_error = 'error'\nprint(raise_error)",
    ],
)
def test_fault_3_the_text_of_output_or_code_decides_nothing(run: Program, code: str) -> None:
    result = run(code)
    assert (result.verdict, result.error) == (OK, "")


def test_fault_3_a_program_that_raises_fails_whatever_it_printed(run: Program) -> None:
    result = run("print('ok, success')\nraise ValueError('bad')")
    assert (result.verdict, result.stdout, result.error) == (ERROR, "ok, success\n", "ValueError: bad")


def test_fault_15_a_timeout_says_so_and_an_empty_output_does_not(run: Program) -> None:
    silent, slow = run("x = 1"), run("while True: pass")
    assert (silent.verdict, silent.stdout, silent.error) == (OK, "", "")
    assert (slow.verdict, slow.error) == (ExecutionVerdict.TIMEOUT, "stopped after 0.4 s of CPU time")
    sleeping = run("import time\ntime.sleep(60)")
    assert (sleeping.verdict, sleeping.error) == (
        ExecutionVerdict.TIMEOUT,
        "stopped after 1.2 s of wall time",
    )


def test_fault_15_a_cut_output_says_how_much_is_gone(pool: SandboxPool, run: Program) -> None:
    limit = pool.config.max_output_chars
    exact = run(f"print('x' * {limit - 1})")
    assert (len(exact.stdout), exact.truncated_chars) == (limit, 0)
    cut = run(f"print('é' * {limit}, end='')\nprint('yz')")
    assert (len(cut.stdout), cut.truncated_chars, cut.verdict) == (limit, 3, OK)
    flood = run("while True: print('x' * 1000)")
    assert len(flood.stdout) == limit
    assert flood.truncated_chars >= pool.config.hard_output_chars - limit


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("x = 5\nx", ""),
        ("print(3)", "3\n"),
        ("x = [\n    1,\n    2,\n]", ""),
        ("print(1)  # the end", "1\n"),
        ("if True:\n    print('inside')", "inside\n"),
        ("try:\n    print('tried')\nfinally:\n    pass", "tried\n"),
        ("'a string that ends here'", ""),
        ("x = 1; print(x)", "1\n"),
        ("def f():\n    return 1\n\n\n", ""),
    ],
)
def test_fault_16_the_last_line_runs_once_and_as_it_stands(run: Program, code: str, stdout: str) -> None:
    result = run(code)
    assert (result.verdict, result.stdout) == (OK, stdout)


def test_a_failing_last_expression_runs_once(run: Program) -> None:
    result = run("print('once')\n1 / 0")
    assert (result.stdout, result.error) == ("once\n", "ZeroDivisionError: division by zero")


def test_print_of_many_digits_is_no_error(run: Program) -> None:
    assert run("print(len(str(2**20000)))").stdout == "6021\n"


def test_too_long_code_is_an_error_that_names_the_limit(run: Program) -> None:
    result = run("x = 1\n" * 20_000)
    assert result.verdict is ERROR
    assert "at most 65536" in result.error


def test_errors_carry_type_and_message_in_one_line(run: Program) -> None:
    assert run("raise ValueError('two\\nlines')").error == "ValueError: two lines"
    assert run("x = 1\ny = (2").error.startswith("SyntaxError: '(' was never closed (<step>, line 2)")
    assert run("undefined").error == "NameError: name 'undefined' is not defined"


def test_an_idle_state_burns_no_cpu(pool: SandboxPool, run: Program, resting: set[int]) -> None:
    assert (
        run("import os, struct\nos.write(3, struct.pack('<cBQI', b'D', 0, 0, 0))\nwhile True: pass").verdict
        is OK
    )

    def stopped() -> bool:
        states = interpreters_of(pool)
        return {states[pid] for pid in set(states) - resting} == {psutil.STATUS_STOPPED}

    assert wait_until(stopped)
