"""A stage's folder and its manifest: what was made, from what, with which settings.

The manifest is written last, so its presence means complete. Its fingerprint covers the stage's settings and seed and
the fingerprints of its inputs, down to the hashes of the files that no stage made: equal fingerprint, equal result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rstar.config import build
from rstar.errors import ConfigError, StageError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_PACKAGES = ("torch", "transformers", "pyarrow", "numpy", "math-verify", "sympy")
STARTED = "started.json"
"""Written first: the fingerprint that an unfinished folder was started with, so that a rerun may continue in it."""
STORE = "store"
"""Folder within a stage's own: its trees, or the rows drawn from them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of a finished stage."""

    schema_version: int
    stage: str
    fingerprint: str
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    """Name of each input to its fingerprint."""
    outputs: dict[str, str]
    """Each file of the folder to its SHA-256."""
    summary: dict[str, Any]
    """What the stage found out, for the report."""
    seconds: float
    """Time spent, over all the runs that it took."""
    versions: dict[str, str]


def fingerprint(stage: str, settings: Mapping[str, Any], seed: int, inputs: Mapping[str, str]) -> str:
    """What decides a stage's result, as 16 hexadecimal digits."""
    decides = {
        "schema": SCHEMA_VERSION,
        "stage": stage,
        "settings": settings,
        "seed": seed,
        "inputs": dict(inputs),
    }
    text = json.dumps(decides, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished stage; None if it is not finished. Raises StageError if it cannot be read."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read ({error}); remove its folder to make it again") from None
    if isinstance(values, dict) and values.get("schema_version") != SCHEMA_VERSION:
        found = values.get("schema_version")
        raise StageError(
            f"{path} has schema version {found}; this program reads {SCHEMA_VERSION}; remove its folder"
        )
    try:
        return build(Manifest, values, where=str(path))
    except ConfigError as error:
        raise StageError(f"{error}; remove its folder to make it again") from None


def write_json(path: Path, values: object) -> None:
    """Write a JSON file so that readers see the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1, sort_keys=True, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def begin(folder: Path, wanted: str) -> float:
    """Start or continue a stage in its folder; returns the seconds that earlier, unfinished runs took."""
    folder.mkdir(parents=True, exist_ok=True)
    started = _started(folder)
    write_json(folder / STARTED, {"fingerprint": wanted, "seconds": started.get("seconds", 0.0)})
    return float(started.get("seconds", 0.0))


def note_seconds(folder: Path, wanted: str, seconds: float) -> None:
    """Remember the time spent so far, for a run that is stopped before its end."""
    with contextlib.suppress(OSError):
        write_json(folder / STARTED, {"fingerprint": wanted, "seconds": seconds})


def started_with(folder: Path) -> str | None:
    """The fingerprint that a folder was started with, finished or not; None if nobody knows."""
    manifest = read_manifest(folder)
    return manifest.fingerprint if manifest else _started(folder).get("fingerprint")


def finish(folder: Path, manifest: Manifest) -> None:
    """Declare the folder complete."""
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    (folder / STARTED).unlink(missing_ok=True)


def hash_files(folder: Path, *, leave_out: Iterable[str] = (MANIFEST, STARTED)) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path; hidden files and `leave_out` are passed over."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and str(name) not in leave_out and not any(p.startswith(".") for p in name.parts):
            with path.open("rb") as file:
                hashes[name.as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def hash_model(folder: Path) -> str:
    """One hash over the files that make up a model: weights, configuration, tokenizer."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"no model at {folder}: it has no config.json")
    wanted = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}
    parts = {n: h for n, h in hash_files(folder).items() if "/" not in n and Path(n).suffix in wanted}
    return fingerprint("model", parts, 0, {})


def _started(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / STARTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
