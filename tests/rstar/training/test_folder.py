"""The folder of a training: whole files only, complete checkpoints only, refusal by what differs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rstar.errors import ConfigError, StageError
from rstar.training.config import TrainingConfig
from rstar.training.folder import (
    COMPLETE,
    RUN,
    TRAINING,
    finished,
    folder_hash,
    identity_of,
    newest_checkpoint,
    read_json,
    refuse_another_training,
    step_of,
    write_json,
)


def test_a_file_that_is_cut_off_or_absent_reads_as_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1]})
    assert read_json(tmp_path / "a.json") == {"x": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "a.json").write_text('{"x": [')
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "b.json") is None


def test_the_newest_checkpoint_is_the_highest_that_was_written_to_its_end(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert step_of(None) == 0
    for step, state in ((9, "{}"), (10, "{}"), (100, '{"cut'), (200, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).write_text(state)
    newest = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "checkpoint-10"
    assert step_of(newest) == 10


def test_a_folders_hash_is_of_names_and_contents_without_record_and_notes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = folder_hash(tmp_path)
    for name in (TRAINING, "README.md"):
        (tmp_path / name).write_text("x")
    assert folder_hash(tmp_path) == before
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert folder_hash(tmp_path) != before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"settings": {"lr": 1, "n": 3}}, "n"),
        ({"seed": 2, "settings": {}}, "seed, lr, n"),
    ],
)
def test_another_training_is_refused_by_what_differs(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    identity = {"seed": 1, "settings": {"lr": 1, "n": 2}}
    refuse_another_training({**identity, "losses": [1.0]}, identity, tmp_path)
    with pytest.raises(StageError, match=rf"holds another training \(different: {named}\); remove it"):
        refuse_another_training({**identity, **change}, identity, tmp_path)


def test_what_has_no_effect_on_the_result_is_no_part_of_a_trainings_identity(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, global_batch_size=8, save_steps=2)
    others = [dataclasses.replace(config, save_steps=5), dataclasses.replace(config, epochs=2)]
    with pytest.raises(ConfigError, match=r"^base is '.*'; it must be a folder with a model"):
        identity_of(config, no_effect=(), seed=0, data_hash="d", base=tmp_path)
    (tmp_path / "config.json").write_text("{}")
    same, another = (
        identity_of(one, no_effect=("save_steps",), seed=0, data_hash="d", base=tmp_path) for one in others
    )
    identity = identity_of(config, no_effect=("save_steps",), seed=0, data_hash="d", base=tmp_path)
    assert identity == same != another
    assert identity["base_hash"] == folder_hash(tmp_path)


def test_a_folder_is_finished_with_its_record_and_refused_to_another_training_even_if_only_begun(
    tmp_path: Path,
) -> None:
    identity: dict[str, Any] = {"seed": 1, "settings": {}}
    assert finished(tmp_path, identity) is None
    write_json(tmp_path / RUN, identity)
    assert finished(tmp_path, identity) is None
    with pytest.raises(StageError, match=r"different: seed\)"):
        finished(tmp_path, {**identity, "seed": 2})
    (tmp_path / RUN).unlink()
    write_json(tmp_path / TRAINING, {**identity, "losses": [1.0]})
    assert finished(tmp_path, identity) == {**identity, "losses": [1.0]}
    with pytest.raises(StageError, match=r"different: seed\)"):
        finished(tmp_path, {**identity, "seed": 2})
