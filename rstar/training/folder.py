"""The folder that a training fills: what it is a training of, its checkpoints, its record.

    run.json        while training: settings, seed, hashes of data and base; a rerun of the same training goes on
    checkpoints/    the Trainer's own
    training.json   the same and what came of it; written last: its presence means complete

What this file does not do: train, or load a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rstar.config import to_plain
from rstar.errors import ConfigError, StageError
from rstar.training.config import TrainingConfig

TRAINING = "training.json"
RUN = "run.json"
CHECKPOINTS = "checkpoints"
COMPLETE = "complete.json"
"""In a checkpoint, written last: how many processes wrote it, and how it is shared among them."""


def identity_of(
    config: TrainingConfig, *, no_effect: Collection[str], seed: int, data_hash: str, base: Path
) -> dict[str, Any]:
    """What makes two trainings the same one: settings (but those that have `no_effect` on the result), seed, data and
    base model. Raises ConfigError when `base` is no model folder."""
    if not (base / "config.json").is_file():
        raise ConfigError(f"base is {str(base)!r}; it must be a folder with a model and its config.json")
    return {
        "settings": {key: value for key, value in to_plain(config).items() if key not in no_effect},
        "seed": seed,
        "data_hash": data_hash,
        "base_hash": folder_hash(base),
    }


def finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The record of this training if `out` holds it complete; None if it is still to be done, or to be gone on with.
    Raises StageError if `out` holds another one, complete or begun."""
    done = read_json(out / TRAINING)
    for found in (done, read_json(out / RUN)):
        if found is not None:
            refuse_another_training(found, identity, out)
    return done


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step that every process wrote to its end; None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if read_json(path / COMPLETE) is not None]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step of a checkpoint's name; 0 for None."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))


def folder_hash(folder: Path) -> str:
    """SHA-256 of a model folder: names and contents of its own files, the training's record and Markdown left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != TRAINING and path.suffix != ".md":
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def refuse_another_training(found: dict[str, Any], identity: dict[str, Any], out: Path) -> None:
    """Raise StageError, naming what differs, if the folder holds another training than `identity`: its hashes and
    seed, and under "settings" its settings."""
    wanted = json.loads(json.dumps(identity))
    differing = [key for key in wanted if key != "settings" and found.get(key) != wanted[key]]
    settings = found.get("settings", {})
    differing += [key for key in wanted["settings"] if settings.get(key) != wanted["settings"][key]]
    if differing:
        names = ", ".join(differing)
        raise StageError(
            f"{out} holds another training (different: {names}); remove it or choose another folder"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no such file, or it is cut off."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees a part."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
