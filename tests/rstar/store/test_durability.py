"""A writer may die at any moment: what it acknowledged is there, once, and readers never see half of anything."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rstar.store.writer
from benchmarks.forest import grow_tree
from rstar.errors import StoreError
from rstar.store import Kind, Store
from rstar.store.files import Layout
from rstar.store.journal import read_journal
from tests.rstar.store.killed_writer import tree_number

REPOSITORY = Path(__file__).resolve().parents[3]


def test_kill_minus_9_loses_no_acknowledged_tree(tmp_path: Path) -> None:
    random_ = random.Random(5)
    acknowledged: set[int] = set()
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.rstar.store.killed_writer", str(tmp_path)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        timer = threading.Timer(random_.uniform(0, 0.4), os.kill, (process.pid, signal.SIGKILL))
        timer.start()
        # A line cut short by the kill is not an acknowledgement.
        lines = [first, *process.stdout.readlines()]
        numbers = [int(line) for line in lines if line.endswith("\n")]
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        timer.join()
        assert numbers
        assert not acknowledged & set(numbers), "a stored tree was searched again"
        acknowledged |= set(numbers)
        _each_once(Store(tmp_path), acknowledged)
    store = Store(tmp_path)
    with store.writer(round=1):
        pass
    _each_once(store, acknowledged)
    assert not list((tmp_path / "journal").glob("*.journal"))
    for number, tree in enumerate(sorted(store.trees(1), key=lambda tree: int(tree.problem_id[1:]))):
        assert tree == tree_number(number)


def _each_once(store: Store, acknowledged: set[int]) -> None:
    stored = [record.problem_id for record in store.records(1)]
    assert len(stored) == len(set(stored))
    assert {f"p{number}" for number in acknowledged} <= set(stored)
    assert len(stored) <= len(acknowledged) + 6, "more than one unacknowledged tree per kill"
    # A kill between the files of one part leaves rows without their tree until the next writer.
    assert [fault for fault in store.validate() if "no trees part" not in fault.what] == []


class Killed(BaseException):
    """Stands for the end of the process: no handler of the store may stop it."""


@contextmanager
def killed_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Die in the `call`-th change of the disk from now on (a write is cut in half); the list tells the calls so far."""
    calls: list[str] = []

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Killed
            if len(calls) > call:
                raise Killed
            return real(*args, **kwargs)

        return change

    with monkeypatch.context() as patch:
        for name in ("write", "fsync"):
            patch.setattr(os, name, dying(name, getattr(os, name)))
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, dying(name, getattr(Path, name)))
        patch.setattr(pq, "write_table", dying("write_table", pq.write_table))
        yield calls


FOREST = [tree_number(number) for number in range(4)]


def _write_forest(folder: Path, acknowledged: list[int]) -> None:
    with Store.create(folder).writer(round=1) as writer:
        for number, tree in enumerate(FOREST):
            writer.append(tree)
            acknowledged.append(number)


def test_death_at_every_single_change_of_the_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rstar.store.writer, "FLUSH_TREES", 2)
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        Store.create(folder)
        acknowledged: list[int] = []
        with killed_at(call, monkeypatch) as calls, suppress(Killed):
            _write_forest(folder, acknowledged)
        if len(calls) < call:
            assert call > 40, "the deaths were not where the writing is"
            return
        store = Store(folder)
        _at_most_one_more(store, acknowledged)
        with store.writer(round=1):
            _at_most_one_more(store, acknowledged)
        _at_most_one_more(store, acknowledged)
        assert store.validate() == []
        assert sorted(p.name for p in (folder / "journal").iterdir()) == ["lock"]
        seen = store.table(Kind.TREES)["problem_id"].to_pylist()
        assert len(seen) == len(set(seen)), "a tree twice for other programs"
    raise AssertionError("it never ended")


def _at_most_one_more(store: Store, acknowledged: list[int]) -> None:
    stored = [int(record.problem_id[1:]) for record in store.records(1)]
    assert stored in (acknowledged, [*acknowledged, len(acknowledged)])


def test_death_at_every_change_of_a_compaction_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = Store.create(tmp_path / "template")
    for number in range(3):
        with template.writer(round=number // 2) as writer:
            writer.append(tree_number(number % 2))
            writer.append(tree_number(5))
            writer.write_table("sft", pa.table({
                "problem_id": [f"p{number}"], "text": ["t"], "token_ids": [[1, 2]], "loss_mask": [[0, 1]],
            }))  # fmt: skip
    before = {(r.round, r.problem_id, r.version) for r in template.records()}
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        shutil.copytree(template.folder, folder)
        store = Store(folder)
        with killed_at(call, monkeypatch) as calls, suppress(Killed):
            store.compact()
        assert {(r.round, r.problem_id, r.version) for r in store.records()} == before
        if len(calls) < call:
            assert call > 20, "the deaths were not where the writing is"
            return
        with store.writer(round=0):
            pass
        assert store.validate() == []
        assert {(r.round, r.problem_id, r.version) for r in store.records()} == before
        assert sorted(map(str, store.table("sft")["problem_id"].to_pylist())) == ["p0", "p1", "p2"]
        store.compact()
        assert store.table("trees").num_rows == len(before)
        assert store.table("sft").num_rows == 3
    raise AssertionError("it never ended")


def _journal_of(folder: Path, num_trees: int) -> bytes:
    """The journal of a writer that died after so many trees."""
    store = Store.create(folder)
    writer = store.writer(round=1)
    for number in range(num_trees):
        writer.append(tree_number(number))
    (path,) = (folder / "journal").glob("*.journal")
    content = path.read_bytes()
    writer.close()
    return content


def test_a_journal_cut_anywhere_keeps_its_whole_records(tmp_path: Path) -> None:
    content = _journal_of(tmp_path / "a", 3)
    path = tmp_path / "00000001.journal"
    ends = []
    for length in [*range(0, len(content), 97), len(content)]:
        path.write_bytes(content[:length])
        ends.append(len(read_journal(path).trees))
    assert ends == sorted(ends)
    assert set(ends) == {0, 1, 2, 3}


def test_a_tail_of_zeros_is_dropped_as_torn(tmp_path: Path) -> None:
    path = tmp_path / "00000001.journal"
    content = _journal_of(tmp_path / "a", 2)
    path.write_bytes(content + bytes(5000))
    read = read_journal(path)
    assert (len(read.trees), read.torn_bytes) == (2, 5000)


def test_damage_inside_a_journal_is_never_passed_over(tmp_path: Path) -> None:
    content = _journal_of(tmp_path / "a", 2)
    start_of_last = len(_journal_of(tmp_path / "b", 1))
    path = tmp_path / "00000001.journal"
    for at in range(20, start_of_last, 67):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"damaged at byte \d+"):
            read_journal(path)


def test_a_full_disk_is_an_error_and_the_next_tree_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(descriptor: int, content: bytes) -> int:
        real(descriptor, bytes(content)[:100])
        raise OSError(28, "No space left on device")

    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        writer.append(tree_number(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match="No space left on device"):
                writer.append(tree_number(1))
        writer.append(tree_number(2))
        assert store.keys() == {("p0", 0), ("p2", 0)}
    assert store.keys() == {("p0", 0), ("p2", 0)}
    assert store.validate() == []


def test_the_second_writer_is_told_who_is_the_first(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with store.writer(round=1):
        with pytest.raises(StoreError, match=f"being written by process {os.getpid()} on "):
            store.writer(round=2)
        with pytest.raises(StoreError, match="being written by process"):
            store.compact()
    with store.writer(round=2) as writer:
        writer.append(tree_number(0))
    assert store.keys(2) == {("p0", 0)}


def test_the_lock_is_free_though_a_child_of_its_holder_lives(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    program = (
        "import os, sys, time\n"
        "from rstar.store import Store\n"
        "writer = Store(sys.argv[1]).writer(round=1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    print(os.getpid(), flush=True)\n"
        "    os.close(1)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(StoreError, match=f"process {process.pid} "):
            store.writer(round=1)
        process.kill()
        process.wait()
        process.stdout.close()
        with store.writer(round=1) as writer:
            writer.append(tree_number(0))
    finally:
        os.kill(child, signal.SIGKILL)


def test_readers_meanwhile_see_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rstar.store.writer, "FLUSH_TREES", 2)
    store = Store.create(tmp_path)
    done = threading.Event()
    faults: list[BaseException] = []
    seen = []

    def read() -> None:
        try:
            while not done.is_set():
                seen.append(len(list(store.trees())))
                for part in Layout(tmp_path).parts(Kind.NODES):
                    pq.read_table(part.path)
        except BaseException as error:
            faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with store.writer(round=1) as writer:
        for number in range(30):
            writer.append(tree_number(number))
    done.set()
    reader.join()
    assert faults == []
    assert seen == sorted(seen)
    assert seen[-1] <= 30


def test_append_from_many_threads_stores_each_tree_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with store.writer(round=1) as writer:
        threads = [threading.Thread(target=writer.append, args=(tree_number(n),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.keys() == {(f"p{n}", 0) for n in range(8)}
    assert store.validate() == []


def test_a_reopened_tree_counts_once_in_its_last_state(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    states = [grow_tree("p", 1, num_rollouts=n) for n in (2, 4, 8)]
    with store.writer(round=1) as writer:
        writer.append(states[0])
        writer.append(states[1])
        writer.append(tree_number(0))
    with store.writer(round=1) as writer:
        writer.append(states[2])
        assert store.tree("p", round=1) == states[2]
    with store.writer(round=2) as writer:
        writer.append(states[0])
    assert list(store.trees(1)) == [tree_number(0), states[2]]
    assert {(r.round, r.problem_id): r.version for r in store.records()} == {
        (1, "p"): 2,
        (1, "p0"): 0,
        (2, "p"): 0,
    }
    assert store.table("trees").num_rows == 5
    assert store.compact().num_versions_dropped == 2
    assert store.table("trees").num_rows == 3
    assert sorted(tree.num_rollouts for tree in store.trees()) == [2, 2, 8]
    assert store.validate() == []


def test_nothing_is_acknowledged_or_shown_before_the_disk_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path)
    writer = store.writer(round=1)
    with killed_at(10**6, monkeypatch) as calls:
        writer.append(tree_number(0))
        assert calls == ["write", "fsync", "fsync", "write", "fsync"], "header, its folder, tree"
        calls.clear()
        writer.append(tree_number(1))
        assert calls == ["write", "fsync"]
        calls.clear()
        writer.close()
    one_part = ["write_table", "fsync", "rename", "fsync", "fsync", "fsync"]
    assert calls == [*one_part * 3, "unlink", "fsync"], "the journal goes after the last part is durable"
