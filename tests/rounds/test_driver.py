"""Stages run once, resume, go stale with what they depend on, and come back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rounds.artifact import MANIFEST, STARTED, fingerprint, hash_files, read_manifest
from rounds.driver import ExternalInput, Progress, Stage, StageStatus, run_stages, status
from rstar.errors import ConfigError, SandboxError, StageError


class Chain:
    """Three stages a → b → c that record their runs; `factor` is a setting of b."""

    def __init__(self, *, factor: int = 2, seed: int = 0, source: str = "s1", fail: str = "") -> None:
        self.ran: list[str] = []
        self.fail = fail
        outside = ExternalInput(folder=Path("outside"), fingerprint=source)
        self.a = Stage(
            name="a", purpose="", settings={}, seed=seed, inputs={"x": outside}, work=self._work("a")
        )
        self.b = Stage(
            name="r/b", purpose="", settings={"factor": factor}, inputs={"a": self.a}, work=self._work("b")
        )
        self.c = Stage(
            name="r/c", purpose="", settings={"n": {"m": 1}}, inputs={"b": self.b}, work=self._work("c")
        )

    @property
    def stages(self) -> list[Stage]:
        return [self.a, self.b, self.c]

    def _work(self, name: str) -> Any:
        def work(folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
            self.ran.append(name)
            if name == self.fail:
                raise SandboxError("no room")
            parts = [(path / "out.txt").read_text() for key, path in inputs.items() if key != "x"]
            (folder / "out.txt").write_text(f"{name}({','.join(parts)})")
            return {"name": name}

        return work


def quiet(_: StageStatus, __: str) -> None:
    """An announcer that says nothing."""


def progress(run: Path, chain: Chain) -> list[Progress]:
    return [one.progress for one in status(run, chain.stages)]


def test_a_run_makes_every_stage_from_its_inputs_and_says_what_it_was_made_of(tmp_path: Path) -> None:
    chain = Chain()
    assert progress(tmp_path, chain) == [Progress.MISSING] * 3
    manifests = run_stages(tmp_path, chain.stages, quiet)
    assert (tmp_path / "r/c/out.txt").read_text() == "c(b(a()))"
    made = manifests["r/c"]
    assert made.summary == {"name": "c"}
    assert made.inputs == {"b": chain.b.fingerprint}
    assert made.outputs == hash_files(tmp_path / "r/c")
    assert made.versions["python"]
    assert progress(tmp_path, chain) == [Progress.COMPLETE] * 3


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    run_stages(tmp_path, Chain().stages, quiet)
    again = Chain()
    run_stages(tmp_path, again.stages, quiet)
    assert again.ran == []


@pytest.mark.parametrize(
    ("changed", "stale", "why"),
    [
        (Chain(factor=3), ["b", "c"], "factor 2 → 3"),
        (Chain(seed=1), ["a", "b", "c"], "seed 0 → 1"),
        (Chain(source="s2"), ["a", "b", "c"], "x changed"),
    ],
)
def test_a_change_runs_again_what_depends_on_it_and_says_why(
    tmp_path: Path, changed: Chain, stale: list[str], why: str
) -> None:
    run_stages(tmp_path, Chain().stages, quiet)
    before = status(tmp_path, changed.stages)
    assert [one.stage.name[-1] for one in before if one.progress is Progress.STALE] == stale
    assert next(one.detail for one in before if one.progress is Progress.STALE) == why
    run_stages(tmp_path, changed.stages, quiet)
    assert changed.ran == stale


def test_what_was_made_with_other_settings_is_kept_and_comes_back_with_them(tmp_path: Path) -> None:
    run_stages(tmp_path, Chain().stages, quiet)
    run_stages(tmp_path, Chain(factor=3).stages, quiet)
    back = Chain()
    run_stages(tmp_path, back.stages, quiet)
    assert back.ran == []
    assert progress(tmp_path, back) == [Progress.COMPLETE] * 3


def test_a_lost_output_makes_its_stage_stale(tmp_path: Path) -> None:
    chain = Chain()
    run_stages(tmp_path, chain.stages, quiet)
    (tmp_path / "r/b/out.txt").unlink()
    found = status(tmp_path, chain.stages)[1]
    assert (found.progress, found.detail) == (Progress.STALE, "out.txt is gone")
    run_stages(tmp_path, chain.stages, quiet)
    assert chain.ran == ["a", "b", "c", "b"]


def test_a_failed_stage_says_which_and_what_to_do_and_a_rerun_continues_in_its_folder(tmp_path: Path) -> None:
    failing = Chain(fail="b")
    with pytest.raises(StageError, match=r"stage r/b failed: no room .* run again to continue"):
        run_stages(tmp_path, failing.stages, quiet)
    (tmp_path / "r/b/half.txt").write_text("half")
    whole = Chain()
    assert progress(tmp_path, whole) == [Progress.COMPLETE, Progress.PARTIAL, Progress.MISSING]
    run_stages(tmp_path, whole.stages, quiet)
    assert whole.ran == ["b", "c"]
    assert (tmp_path / "r/b/half.txt").exists()
    assert not (tmp_path / "r/b" / STARTED).exists()


def test_an_unfinished_stage_of_other_settings_is_set_aside_and_not_continued(tmp_path: Path) -> None:
    with pytest.raises(StageError):
        run_stages(tmp_path, Chain(fail="b").stages, quiet)
    (tmp_path / "r/b/half.txt").write_text("half")
    run_stages(tmp_path, Chain(factor=3).stages, quiet)
    assert not (tmp_path / "r/b/half.txt").exists()
    run_stages(tmp_path, Chain(factor=2).stages, quiet)
    assert (tmp_path / "r/b/half.txt").exists()


def test_two_drivers_of_one_run_do_not_meet(tmp_path: Path) -> None:
    chain = Chain()

    def meddle(_: StageStatus, __: str) -> None:
        with pytest.raises(StageError, match="another process is working"):
            run_stages(tmp_path, Chain().stages, quiet)

    run_stages(tmp_path, chain.stages, meddle)
    assert chain.ran == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "stage": 3}']
)
def test_a_manifest_that_cannot_be_read_is_one_clear_line(tmp_path: Path, text: str) -> None:
    run_stages(tmp_path, Chain().stages, quiet)
    (tmp_path / "a" / MANIFEST).write_text(text)
    with pytest.raises(StageError, match="remove its folder") as caught:
        status(tmp_path, Chain().stages)
    assert "\n" not in str(caught.value)


def test_a_fingerprint_covers_settings_seed_inputs_and_name() -> None:
    base = fingerprint("s", {"a": 1}, 0, {"i": "x"})
    assert base == fingerprint("s", {"a": 1}, 0, {"i": "x"})
    others = [
        fingerprint("t", {"a": 1}, 0, {"i": "x"}), fingerprint("s", {"a": 2}, 0, {"i": "x"}),
        fingerprint("s", {"a": 1}, 1, {"i": "x"}), fingerprint("s", {"a": 1}, 0, {"i": "y"}),
    ]  # fmt: skip
    assert len({base, *others}) == 5


_KILLED = """
import os, signal, sys
from pathlib import Path
from rounds.driver import Stage, run_stages
def work(folder, inputs):
    done = sorted(folder.glob("part*"))
    for number in range(len(done), 5):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"part{number}").write_text(str(number))
    return {"parts": 5}
run_stages(Path(sys.argv[1]), [Stage(name="a", purpose="", settings={}, work=work)], lambda *_: None)
"""


@pytest.mark.parametrize("at", [0, 3, 4])
def test_a_stage_killed_anywhere_ends_in_the_same_result_when_run_again(tmp_path: Path, at: int) -> None:
    first = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), str(at)], check=False)
    assert first.returncode == -signal.SIGKILL
    assert read_manifest(tmp_path / "a") is None
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), "9"], check=True)
    made = read_manifest(tmp_path / "a")
    assert made is not None
    assert list(made.outputs) == [f"part{number}" for number in range(5)]


def test_a_wrong_setting_found_by_a_stage_is_one_line_with_the_stage(tmp_path: Path) -> None:
    def work(folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
        raise ConfigError("problems.train is empty")

    with pytest.raises(ConfigError, match=r"^stage a: problems.train is empty$"):
        run_stages(tmp_path, [Stage(name="a", purpose="", settings={}, work=work)], quiet)


def test_manifests_are_plain_json(tmp_path: Path) -> None:
    run_stages(tmp_path, Chain().stages, quiet)
    values = json.loads((tmp_path / "a" / MANIFEST).read_text())
    assert values["stage"] == "a"
    assert values["schema_version"] == 1
