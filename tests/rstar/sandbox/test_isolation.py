"""The layers: all held here, each missing one reported, the hostile corpus with fewer layers and without root."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rstar.errors import ConfigError, SandboxError
from rstar.protocols import ExecutionVerdict, RunRequest
from rstar.sandbox import IsolationReport, SandboxConfig, SandboxPool, wire
from rstar.sandbox.config import available_cores
from tests.rstar.sandbox.forbidden import LIGHT, wrong_verdicts

NAMESPACES = {"pid", "user", "mount", "network", "ipc", "uts"}
SINGLE_LAYERS = {
    "gate": "fork gate",
    "landlock": "file access rules",
    "mount": "file system of its own",
    "pid": "process namespace",
    "network": "network namespace",
    "ipc": "queues of its own",
    "uts": "host name",
    "uid": "user without rights",
    "rlimits": "memory and file limits",
    "clone": "exit status from the kernel",
    "addresses": "fixed addresses",
}


async def report_of(config: SandboxConfig, without: set[str]) -> IsolationReport:
    """Start, look, close."""
    pool = SandboxPool(config, _without=without)
    try:
        return await pool.start()
    finally:
        await pool.aclose()


def test_every_layer_that_is_missing_is_named_once_in_one_warning(pool: SandboxPool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = asyncio.run(report_of(LIGHT, {"landlock", "mount"}))
    messages = [str(item.message) for item in caught if item.category is RuntimeWarning]
    assert len(messages) == 1
    assert "\n" not in messages[0]
    assert "step code can READ world-readable files (switched off)" in messages[0]
    assert {"file access rules (Landlock)", "read-only file system of its own (mount namespace)"} <= {
        row[0] for row in report.rows() if row[1] == "missing"
    }
    assert not report.complete


@pytest.mark.filterwarnings("ignore:sandbox:RuntimeWarning")
@pytest.mark.parametrize("layer", SINGLE_LAYERS)
def test_each_layer_switched_off_is_reported_missing_and_no_other(layer: str) -> None:
    without = {layer, "seccomp"} if layer == "clone" else {layer}
    config = SandboxConfig(num_shards=1, libraries=(), allow_unsafe=True)
    held = {row[0] for row in asyncio.run(report_of(config, set())).rows() if row[1] == "held"}
    report = asyncio.run(report_of(config, without))
    missing = {item.name for item in report.missing} & held
    if layer == "mount":  # without it, root keeps its name where another user could not read Python
        missing -= {"user without rights"}
    expected = 3 if layer == "clone" else 1
    assert len(missing) == expected, missing
    assert any(SINGLE_LAYERS[layer] in name for name in missing)


def test_strict_refuses_a_missing_layer_by_name() -> None:
    config = SandboxConfig(num_shards=1, libraries=(), strict=True)
    with pytest.raises(SandboxError, match=r"sandbox\.strict=True: .*no file access rules") as caught:
        asyncio.run(report_of(config, {"landlock"}))
    assert "\n" not in str(caught.value)


def test_no_filter_no_start() -> None:
    with pytest.raises(SandboxError, match=r"no system-call filter .* sandbox\.allow_unsafe=True"):
        asyncio.run(report_of(LIGHT, {"seccomp"}))


def test_a_library_that_is_not_installed_is_a_clear_error() -> None:
    config = SandboxConfig(libraries=("no_such_library",))
    with pytest.raises(SandboxError, match=r"'no_such_library' .* is not installed"):
        asyncio.run(report_of(config, set()))


def test_settings_out_of_range_name_the_field_and_the_bound() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.cpu_s=0 is too small; it must be at least 0\.01"):
        SandboxConfig(cpu_s=0)
    with pytest.raises(ConfigError, match=r"sandbox\.cpu_s=nan"):
        SandboxConfig(cpu_s=float("nan"))
    with pytest.raises(ConfigError, match=r"sandbox\.max_code_chars=100000; it must be at most 65536"):
        SandboxConfig(max_code_chars=100_000)
    assert SandboxConfig().shards >= 1
    assert SandboxConfig(num_shards=1).running_per_shard == available_cores()


def test_verdicts_on_the_wire_are_those_of_the_protocol() -> None:
    assert [wire.VERDICTS[code] for code in (wire.OK, wire.ERROR, wire.TIMEOUT, wire.MEMORY)] == [
        ExecutionVerdict.OK,
        ExecutionVerdict.ERROR,
        ExecutionVerdict.TIMEOUT,
        ExecutionVerdict.MEMORY,
    ]
    assert [wire.VERDICTS[code] for code in (wire.OUTPUT_LIMIT, wire.BLOCKED, wire.KILLED)] == [
        ExecutionVerdict.OUTPUT_LIMIT,
        ExecutionVerdict.BLOCKED,
        ExecutionVerdict.KILLED,
    ]


@pytest.mark.filterwarnings("ignore:sandbox:RuntimeWarning")
def test_the_filter_and_landlock_hold_the_corpus_without_any_namespace() -> None:
    """As in a container that forbids namespaces."""
    wrong = asyncio.run(wrong_verdicts(LIGHT, NAMESPACES))
    seen_files = ("file-walk_up_out_of_the_root", "file-read_kernel_settings")
    assert [line for line in wrong if not line.startswith(seen_files)] == []


@pytest.mark.filterwarnings("ignore:sandbox:RuntimeWarning")
def test_states_work_on_the_portable_path_without_raw_clone_and_filter() -> None:
    async def scenario() -> None:
        config = SandboxConfig(
            num_shards=1, libraries=(), allow_unsafe=True, cpu_s=0.5, wall_s=1.5, max_snapshots=2
        )
        async with SandboxPool(config, _without={"clone", "seccomp"}) as pool:
            codes = tuple(f"import random\nx{i} = random.random()\nprint(x{i})" for i in range(4))
            outputs = []
            for depth, code in enumerate(codes):
                result = await pool.run(RunRequest(code=code, history=codes[:depth], group="g"))
                outputs.append(result.stdout)
            assert len(set(outputs)) == 4
            replayed = await pool.run(RunRequest(code="print(x1)", history=codes[:2], group="g"))
            assert (replayed.stdout, replayed.replayed_steps) == (outputs[1], 2)
            for code, verdict in {
                "1 / 0": "error",
                "import os\nos._exit(0)": "error",
                "while True: pass": "timeout",
                "import ctypes\nctypes.string_at(0)": "error",
                "x = bytearray(10**10)": "memory",
                "print(1)": "ok",
            }.items():
                result = await pool.run(RunRequest(code=code, history=codes[:1], group="g"))
                assert result.verdict.value == verdict, result

    asyncio.run(scenario())


def test_the_corpus_holds_without_root(repository: Path) -> None:
    """As the user `nobody`, who gets the same layers through a user namespace."""
    interpreter, user = sys.executable, None
    if os.geteuid() == 0:
        user = 65534
        found = shutil.which("python3", path="/usr/local/bin:/usr/bin")
        if found is None or _version(found) < (3, 11):
            pytest.skip("no Python 3.11 or later that another user than root may read")
        interpreter = found
    program = (
        "import asyncio, sys, warnings; warnings.simplefilter('ignore', RuntimeWarning)\n"
        "from tests.rstar.sandbox.forbidden import LIGHT, wrong_verdicts\n"
        "print(asyncio.run(wrong_verdicts(LIGHT, set())))"
    )
    done = subprocess.run(
        [interpreter, "-c", program],
        env={"PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"},
        user=user,
        group=user,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def _version(interpreter: str) -> tuple[int, ...]:
    program = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))
