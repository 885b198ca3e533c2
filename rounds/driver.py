"""The order of a round's stages: skip what is finished, continue what is not, set aside what is stale.

A stage is a function from the folders of its inputs to its own folder. Stages know nothing of each other but folders,
so any can be run alone, resumed or replaced. What they do is in `stages`.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from rounds.artifact import (
    SCHEMA_VERSION,
    Manifest,
    begin,
    fingerprint,
    finish,
    hash_files,
    note_seconds,
    read_manifest,
    started_with,
    versions,
)
from rstar import logs
from rstar.errors import ConfigError, RstarError, StageError

SET_ASIDE = ".stale"
"""Folder of a run that keeps what was made with other settings; it comes back when the settings do."""


events = logs.events(__name__)


class Progress(StrEnum):
    """How far a stage is."""

    COMPLETE = "complete"
    STALE = "stale"
    """Made with other settings, seeds or inputs than the recipe has now."""
    PARTIAL = "partial"
    """Started with these settings and not finished; a run continues it."""
    MISSING = "missing"


Work = Callable[[Path, Mapping[str, Path]], dict[str, Any]]
"""Fill the folder from the folders of the inputs (by name); return the summary. Continues what it finds there."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One folder-to-folder step. `inputs` are stages, or folders that no stage made with the hash of their content."""

    name: str
    """Also its folder below the run's: "round1/search"."""
    purpose: str
    settings: dict[str, Any]
    work: Work
    seed: int = 0
    inputs: Mapping[str, Stage | ExternalInput] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        prints = {name: made.fingerprint for name, made in self.inputs.items()}
        return fingerprint(self.name, self.settings, self.seed, prints)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExternalInput:
    """A folder that no stage made, such as the base model."""

    folder: Path
    fingerprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageStatus:
    """One line of `rstar round status`."""

    stage: Stage
    folder: Path
    progress: Progress
    detail: str = ""
    manifest: Manifest | None = None


def status(run: Path, stages: list[Stage]) -> list[StageStatus]:
    """How far each stage is, in order."""
    return [_status(run, stage) for stage in stages]


def _status(run: Path, stage: Stage) -> StageStatus:
    folder = run / stage.name
    manifest = read_manifest(folder)
    if manifest is None:
        started = started_with(folder)
        if started is None and not folder.exists():
            return StageStatus(stage=stage, folder=folder, progress=Progress.MISSING)
        if started == stage.fingerprint:
            return StageStatus(stage=stage, folder=folder, progress=Progress.PARTIAL)
        return StageStatus(
            stage=stage, folder=folder, progress=Progress.STALE, detail="unfinished, other settings"
        )
    if manifest.fingerprint != stage.fingerprint:
        detail = ", ".join(_differences(manifest, stage))
        return StageStatus(
            stage=stage, folder=folder, progress=Progress.STALE, detail=detail, manifest=manifest
        )
    lost = next((name for name in manifest.outputs if not (folder / name).is_file()), None)
    if lost is not None:
        detail = f"{lost} is gone"
        return StageStatus(
            stage=stage, folder=folder, progress=Progress.STALE, detail=detail, manifest=manifest
        )
    return StageStatus(stage=stage, folder=folder, progress=Progress.COMPLETE, manifest=manifest)


def _differences(manifest: Manifest, stage: Stage) -> Iterator[str]:
    """What changed since a stage was made, in words."""
    yield from _setting_differences(manifest.settings, stage.settings, "")
    if manifest.seed != stage.seed:
        yield f"seed {manifest.seed} → {stage.seed}"
    for name, made in stage.inputs.items():
        if manifest.inputs.get(name) != made.fingerprint:
            yield f"{name} changed"


def _setting_differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _setting_differences(before, after, f"{path}{key}.")
        elif before != after:
            yield f"{path}{key} {before} → {after}"


def run_stages(
    run: Path, stages: list[Stage], announce: Callable[[StageStatus, str], None]
) -> dict[str, Manifest]:
    """Bring every stage to completion, in order; returns the manifests by stage name.

    `announce` is told what happens to each stage. Raises StageError, one line with the stage and what to do, if one fails.
    """
    with _only_one(run):
        for stage in stages:
            found = _status(run, stage)
            if found.progress is Progress.COMPLETE:
                announce(found, "already done")
                continue
            if found.progress is Progress.STALE:
                _set_aside(run, stage, announce, found)
            returned = _bring_back(run, stage)
            found = _status(run, stage)
            if found.progress is Progress.COMPLETE:
                announce(found, "already done, with these settings before")
                continue
            how = "continues" if found.progress is Progress.PARTIAL or returned else "starts"
            announce(found, how)
            events.info("stage begun", stage=stage.name, run=str(run), how=how)
            try:
                _make(run, stage)
            except RstarError as error:
                events.warning("stage failed", said=True, stage=stage.name, run=str(run), error=str(error))
                raise
            made = _status(run, stage)
            announce(made, "done")
            events.info(
                "stage done", stage=stage.name, run=str(run), seconds=made.manifest and made.manifest.seconds
            )
        return {stage.name: _complete(run, stage) for stage in stages}


def _complete(run: Path, stage: Stage) -> Manifest:
    manifest = read_manifest(run / stage.name)
    assert manifest is not None, f"{stage.name} has run"
    return manifest


def _make(run: Path, stage: Stage) -> None:
    folder = run / stage.name
    wanted = stage.fingerprint
    before = begin(folder, wanted)
    clock = time.monotonic()
    inputs = {
        name: made.folder if isinstance(made, ExternalInput) else run / made.name
        for name, made in stage.inputs.items()
    }
    try:
        summary = stage.work(folder, inputs)
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from None
    except RstarError as error:
        raise StageError(
            f"stage {stage.name} failed: {error} (what it has finished is kept; run again to continue, "
            f"or remove {folder} to start it over)"
        ) from error
    finally:
        note_seconds(folder, wanted, before + time.monotonic() - clock)
    finish(
        folder,
        Manifest(
            schema_version=SCHEMA_VERSION,
            stage=stage.name,
            fingerprint=wanted,
            settings=stage.settings,
            seed=stage.seed,
            inputs={name: made.fingerprint for name, made in stage.inputs.items()},
            outputs=hash_files(folder),
            summary=summary,
            seconds=round(before + time.monotonic() - clock, 3),
            versions=versions(),
        ),
    )


def _set_aside(
    run: Path, stage: Stage, announce: Callable[[StageStatus, str], None], found: StageStatus
) -> None:
    """Move a stale folder out of the way; nothing that took time to make is deleted."""
    folder = run / stage.name
    old = started_with(folder) or "unknown"
    aside = run / SET_ASIDE / stage.name.replace("/", "-") / old
    if aside.exists():
        shutil.rmtree(aside)
    aside.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(aside)
    announce(found, f"set aside: {found.detail}")


def _bring_back(run: Path, stage: Stage) -> bool:
    """If this stage was set aside with the very settings it has now, its folder returns."""
    aside = run / SET_ASIDE / stage.name.replace("/", "-") / stage.fingerprint
    if not aside.exists():
        return False
    (run / stage.name).parent.mkdir(parents=True, exist_ok=True)
    aside.rename(run / stage.name)
    return True


@contextmanager
def _only_one(run: Path) -> Iterator[None]:
    """One driver per run folder at a time; the lock ends with the process, however it ends."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(
                f"another process is working in {run}; wait for it, or use another folder with --run"
            ) from None
        yield
