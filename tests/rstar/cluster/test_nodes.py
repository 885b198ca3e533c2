"""A cluster of two machines, one of which dies and comes back while a search runs: each is a network namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rstar.store import Store
from tests.rstar.cluster import run_search
from tests.rstar.cluster.namespaces import ENVIRONMENT, PORT, Machine, missing, two_machines
from tests.rstar.cluster.scripted import Script, search_into, trees_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    if reason := missing():
        pytest.skip(reason)
    with two_machines() as machines:
        yield machines


def join(machine: Machine, head: Machine) -> None:
    machine.start_ray("--address", f"{head.address}:{PORT}")


def wait_until(condition: Callable[[], bool], what: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the search ended before {what}"
        assert time.monotonic() < deadline, f"not in two minutes: {what}"
        time.sleep(0.1)


def test_a_node_killed_in_mid_run_loses_no_finished_tree_and_gets_work_again_when_it_joins(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    head, other = machines
    head.start_ray("--head", "--port", str(PORT), "--include-dashboard", "false")
    join(other, head)
    script = Script(folder=tmp_path)
    process = subprocess.Popen(
        head.command(sys.executable, "-m", "tests.rstar.cluster.run_search", f"{head.address}:{PORT}", str(tmp_path)),
        cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip

    def started_on(machine: Machine) -> list[str]:
        pids = {str(pid) for pid in machine.pids()}
        return [line for line in script.noted("started") if line.split()[0] in pids]

    wait_until(lambda: len(started_on(other)) >= 8, "trees on both machines", process)
    in_flight_at_most = 4
    before = started_on(other)
    other.kill()
    wait_until(lambda: len(script.noted("started")) > len(before) + 12, "the other one went on", process)
    join(other, head)
    wait_until(lambda: len(started_on(other)) >= 2, "the machine that came back had work", process)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert "is lost, its" in errors

    alone = Store.create(tmp_path / "alone")
    search_into(alone, Script(folder=tmp_path / "alone"), problems=run_search.PROBLEMS)
    found = Store(tmp_path / "store")
    assert trees_of(found) == trees_of(alone)
    assert found.validate() == []
    workers = json.loads((tmp_path / "progress.json").read_text())["workers"]
    assert sum(one["trees"] for one in workers.values()) == len(run_search.PROBLEMS)
    dead = [name for name, one in workers.items() if not one["alive"]]
    assert [name.partition("#")[0] for name in dead] == [other.address]
    came_back = [one for name, one in workers.items() if name.startswith(other.address) and one["alive"]]
    assert [one["trees"] > 0 for one in came_back] == [True]
    groups = [line.split()[1] for line in script.noted("started")]
    assert len(groups) - len(set(groups)) <= in_flight_at_most + 4, (
        "searched twice: in flight when it died, and last copies"
    )
