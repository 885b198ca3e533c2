"""Workers: hostile input is bounded, deaths are recovered from and told apart, no process is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rstar.errors import GradingError
from rstar.grading import Grader, GraderConfig, Verdict, VerdictReason, symbolic
from rstar.grading import pool as pool_module
from rstar.grading import worker as worker_module

QUICK = GraderConfig(num_workers=1, cpu_limit_s=1.0, deadline_s=8.0)
HOSTILE = {
    "tower of powers": "9^{9^{9^{9}}}",
    "factorial": "10000000!",
    "power in C code": r"x+3^{3^{17}}",
    "braces": "{" * 900 + "x" + "}" * 900,
    "parentheses": "(" * 900 + "x" + ")" * 900,
    "fractions": r"\frac{" * 150 + "x" + "}{2}" * 150,
    "sum": r"\sum_{k=1}^{10^{9}} \frac{1}{k^{x}}",
    "product": "(x+1)" * 300,
    "integral": r"\int_0^1 \sin(\exp(x^{x}))^{y} dx",
    "large decimal": "1e999999999x",
    "list": ",".join(f"x+{i}" for i in range(300)),
    "signs": r"\pm" * 400 + "x",
    "code": "__import__('os').system('touch forbidden')",
    "newlines and quotes": 'x"\n}\n{"a": 1',
}


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_dead(pids: list[int]) -> None:
    while any(map(alive, pids)):  # the test's own time limit ends this
        time.sleep(0.01)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_gets_a_verdict_and_the_next_pair_its_own(text: str, tmp_path: Path) -> None:
    with Grader(QUICK) as grader:
        verdict = grader.grade_sync(text, "x+1")
        assert not verdict.equal
        assert verdict.reason is not VerdictReason.CRASH or "memory" in verdict.detail
        assert grader.grade_sync("y+1", "1+y") == Verdict(True, VerdictReason.SYMBOLIC)
        pids = grader.worker_pids
    wait_until_dead(pids)
    assert not Path("forbidden").exists()


def test_fault_11_code_that_never_returns_to_python_is_killed_at_the_deadline() -> None:
    with Grader(GraderConfig(num_workers=1, cpu_limit_s=4.0, deadline_s=6.0)) as grader:
        assert grader.grade_sync("x+1", "1+x").equal
        [first] = grader.worker_pids
        os.kill(first, signal.SIGSTOP)  # the worker's own alarm cannot fire any more
        assert grader.grade_sync("z+1", "1+z") == Verdict(False, VerdictReason.TIMEOUT, "stopped after 6 s")
        wait_until_dead([first])
        assert grader.grade_sync("y+1", "1+y").equal


def test_a_killed_worker_is_replaced_and_its_pair_graded_again() -> None:
    with Grader(QUICK) as grader:
        assert grader.grade_sync("x+1", "1+x").equal
        [first] = grader.worker_pids
        os.kill(first, signal.SIGKILL)
        assert grader.grade_sync("y+1", "1+y") == Verdict(True, VerdictReason.SYMBOLIC)
        assert grader.worker_pids != [first]


def test_a_pair_that_kills_two_workers_is_a_crash_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a pair does to a worker: here the test kills the worker whenever the pair is asked."""
    ask = pool_module._Worker.ask

    def deadly(worker: pool_module._Worker, a: str, b: str, deadline_s: float) -> pool_module.Status | None:
        if "q" in a:
            worker.process.kill()
        return ask(worker, a, b, deadline_s)

    monkeypatch.setattr(pool_module._Worker, "ask", deadly)
    with Grader(QUICK) as grader:
        assert grader.grade_sync("q+1", "1+q") == Verdict(
            False, VerdictReason.CRASH, "two workers died of this pair"
        )
        assert grader.grade_sync("y+1", "1+y").equal


def test_workers_that_die_of_anything_are_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = pool_module._Worker.ask

    def deadly(worker: pool_module._Worker, a: str, b: str, deadline_s: float) -> pool_module.Status | None:
        worker.process.kill()
        return ask(worker, a, b, deadline_s)

    monkeypatch.setattr(pool_module._Worker, "ask", deadly)
    with Grader(QUICK) as grader, pytest.raises(GradingError, match=r"a fresh one cannot grade x\+1 = 1\+x"):
        grader.grade_sync("q+1", "1+q")


def test_a_worker_that_cannot_start_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no sympy here' >&2\nexit 3\n")
    program.chmod(0o755)
    for executable, message in {program: "no sympy here", tmp_path / "absent": "No such file"}.items():
        monkeypatch.setattr(sys, "executable", str(executable))
        with Grader(QUICK) as grader:
            with pytest.raises(GradingError, match=rf"a grading worker did not start: .*{message}"):
                asyncio.run(grader.grade("x+1", "1+x"))
            assert grader.grade_sync("1/2", "0.5").equal


def test_the_worker_has_limits() -> None:
    with Grader(QUICK) as grader:
        assert grader.grade_sync("x+1", "1+x").equal
        lines = Path(f"/proc/{grader.worker_pids[0]}/limits").read_text().splitlines()
    soft = {line[:25].strip(): line[25:].split()[0] for line in lines}
    assert soft["Max address space"] == str(QUICK.memory_bytes)
    assert (soft["Max file size"], soft["Max core file size"], soft["Max open files"]) == ("0", "0", "64")


def test_running_out_of_memory_is_a_crash_and_the_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_a: str, _b: str) -> bool:
        raise MemoryError

    monkeypatch.setattr(symbolic, "equal_expressions", no_memory)
    answer = worker_module._answer("x+1", "1+x", 1.0, symbolic)
    assert answer == {"status": "memory"}

    ask = pool_module._Worker.ask

    def hungry(worker: pool_module._Worker, a: str, b: str, deadline_s: float) -> pool_module.Status | None:
        return pool_module.Status(**answer) if "q" in a else ask(worker, a, b, deadline_s)

    monkeypatch.setattr(pool_module._Worker, "ask", hungry)
    with Grader(QUICK) as grader:
        assert grader.grade_sync("q+1", "1+q") == Verdict(False, VerdictReason.CRASH, "out of memory")
        assert grader.worker_pids == []
        assert grader.grade_sync("y+1", "1+y").equal


def test_closing_ends_workers_and_fails_what_is_awaited() -> None:
    grader = Grader(GraderConfig(num_workers=1, cpu_limit_s=30.0, deadline_s=60.0))
    assert grader.grade_sync("x+1", "1+x").equal
    pids = grader.worker_pids
    os.kill(pids[0], signal.SIGSTOP)
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(grader.grade_sync("z+1", "1+z"))
        except GradingError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    while not grader._under_way:
        time.sleep(0.01)
    grader.close()
    thread.join()
    assert outcome == ["the grader was closed"]
    wait_until_dead(pids)


def test_a_forgotten_grader_leaves_no_process() -> None:
    grader = Grader(QUICK)
    assert grader.grade_sync("x+1", "1+x").equal
    pids = grader.worker_pids
    del grader
    wait_until_dead(pids)


PARENT = """
import sys, threading
from rstar.grading import Grader, GraderConfig
grader = Grader(GraderConfig(num_workers=1, cpu_limit_s=100.0, deadline_s=200.0))
assert grader.grade_sync("x+1", "1+x").equal
print(grader.worker_pids[0], flush=True)
if sys.argv[1] == "busy":
    threading.Thread(target=grader.grade_sync, args=("(x+1)^{3^{3^{9}}}", "x"), daemon=True).start()
if sys.argv[1] != "exit":
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["idle", "busy", "exit"])
def test_workers_never_outlive_their_parent(how: str) -> None:
    """Killed with SIGKILL while its worker waits or computes, or simply at its end without closing."""
    parent = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PARENT, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        worker = int(parent.stdout.readline())
        if how == "exit":
            assert parent.wait() == 0
            assert parent.stderr.read() == ""
        else:
            assert alive(worker)
            time.sleep(0.3)
            parent.kill()
    wait_until_dead([worker])


def test_a_grader_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    with Grader(QUICK) as grader:
        monkeypatch.setattr(grader._pool, "_pid", -1)
        with pytest.raises(GradingError, match="make one in each process"):
            grader.grade_sync("x+1", "1+x")
