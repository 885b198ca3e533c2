"""DeepSpeed's configuration: presets, files and inline content come out complete, and contradictions are one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policy.config import SFTConfig
from rstar.config import build, to_plain
from rstar.errors import ConfigError
from rstar.training import zero


@pytest.mark.parametrize("name", zero.PRESETS)
def test_a_preset_leaves_batches_and_precision_to_the_trainer(name: str) -> None:
    content = zero.resolve(name)
    assert zero.stage(content) == int(name[4])
    assert zero.offloads_optimizer(content) == name.endswith("offload")
    assert content["bf16"] == {"enabled": "auto"}
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert content[key] == "auto"
    gathered = content["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False)
    assert gathered == (zero.stage(content) == 3)


def test_resolving_changes_no_preset() -> None:
    zero.resolve("zero3")["zero_optimization"]["stage"] = 0
    assert zero.stage(zero.resolve("zero3")) == 3


def test_a_file_and_its_content_inline_are_the_same_configuration(tmp_path: Path) -> None:
    content = {"zero_optimization": {"stage": 2, "overlap_comm": False}, "bf16": {"enabled": "auto"}}
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(content))
    assert zero.resolve(str(file)) == zero.resolve(content)
    read = build(SFTConfig, {"deepspeed": content})
    assert to_plain(read)["deepspeed"] == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("zero4", "deepspeed has no preset 'zero4'; did you mean zero3? A file's name ends in .json"),
        (
            {"train_batch_size": 8},
            "deepspeed: train_batch_size is set; global_batch_size of the training decides it, leave it out or auto",
        ),
        (
            {"optimizer": {"type": "Lamb"}},
            "deepspeed: optimizer is set; learning_rate and weight_decay (it is AdamW) of the training decides it, "
            "leave it out or auto",
        ),
        (
            {"bf16": {"enabled": True}},
            "deepspeed: bf16 is set; precision of the training decides it, leave it out or auto",
        ),
        (
            {"zero_optimization": {"stage": 4}},
            "deepspeed: zero_optimization.stage is 4; it must be 0, 1, 2 or 3",
        ),
        (
            {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}},
            "deepspeed: zero_optimization.stage3_gather_16bit_weights_on_model_save must be true: the trained weights "
            "are saved whole",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": True}},
            "deepspeed: zero_optimization.offload_optimizer must have a device, cpu or nvme, or be left out",
        ),
    ],
    ids=str,
)
def test_a_contradiction_is_one_clear_line_as_soon_as_the_settings_are_read(
    content: str | dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        build(SFTConfig, {"deepspeed": content})
    assert str(raised.value) == message


def test_a_file_that_is_none_is_one_clear_line_when_the_training_starts(tmp_path: Path) -> None:
    missing, broken, other = (tmp_path / name for name in ("missing.json", "broken.json", "other.json"))
    broken.write_text('{"zero_optimization": }')
    other.write_text("[]")
    build(SFTConfig, {"deepspeed": str(missing)})
    for file, message in (
        (missing, "cannot be read: .*No such file"),
        (broken, "line 1: not valid JSON"),
        (other, "must hold a JSON object"),
    ):
        with pytest.raises(ConfigError, match=rf"^deepspeed: {file},? {message}"):
            zero.resolve(str(file))
