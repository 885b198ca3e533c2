"""What DeepSpeed is told: named presets and one's own JSON, made to agree with the settings of the training.

Batches, precision, optimiser and schedule are the training's; the JSON says how its state is spread over the processes
(ZeRO: arXiv:1910.02054, arXiv:2101.06840). What this file does not do: import DeepSpeed.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rstar.errors import ConfigError

_ZERO_1: dict[str, Any] = {"stage": 1}
_ZERO_2: dict[str, Any] = {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}
_ZERO_3: dict[str, Any] = {"stage": 3, "overlap_comm": True, "contiguous_gradients": True}
_OPTIMIZER_ON_CPU: dict[str, Any] = {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
_WEIGHTS_ON_CPU: dict[str, Any] = {"offload_param": {"device": "cpu", "pin_memory": True}}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "zero1": {"zero_optimization": _ZERO_1},
    "zero2": {"zero_optimization": _ZERO_2},
    "zero2-offload": {"zero_optimization": _ZERO_2 | _OPTIMIZER_ON_CPU},
    "zero3": {"zero_optimization": _ZERO_3},
    "zero3-offload": {"zero_optimization": _ZERO_3 | _OPTIMIZER_ON_CPU | _WEIGHTS_ON_CPU},
}
"""zero1: the optimiser's state is shared among the processes; zero2: gradients too; zero3: weights too. offload: what is
shared of the optimiser's state (zero3: and of the weights) lies in the machine's memory, and is updated there."""

_DECIDED = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size or micro_batch_tokens",
    "gradient_accumulation_steps": "global_batch_size",
    "gradient_clipping": "max_grad_norm",
    "optimizer": "learning_rate and weight_decay (it is AdamW)",
    "scheduler": "schedule and warmup_ratio",
    "bf16": "precision",
    "fp16": "precision",
    "torch_autocast": "precision",
}
"""DeepSpeed's keys that say what a setting of the training says, and that setting."""

Content = dict[str, Any]


def check(setting: str | Mapping[str, Any]) -> None:
    """Raise ConfigError if a preset, or content given inline, is wrong. A file is read when the training starts: a recipe
    can be looked at where its files are not."""
    if isinstance(setting, Mapping) or not _is_path(setting):
        resolve(setting)


def resolve(setting: str | Mapping[str, Any]) -> Content:
    """DeepSpeed's JSON for a training. "auto" stands where the Trainer fills in its own.

    Raises ConfigError for an unknown preset, a file that is none, and content that contradicts the training's settings.
    """
    if isinstance(setting, Mapping):
        content, where = dict(setting), "deepspeed"
    elif _is_path(setting):
        content, where = _read(Path(setting)), f"deepspeed: {setting}"
    elif setting in PRESETS:
        content, where = dict(PRESETS[setting]), "deepspeed"
    else:
        close = difflib.get_close_matches(setting, PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"presets: {', '.join(PRESETS)}"
        raise ConfigError(f"deepspeed has no preset {setting!r}; {hint} A file's name ends in .json")
    return _completed(copy.deepcopy(content), where)


def offloads_optimizer(content: Content) -> bool:
    """The optimiser's state lies in the machine's memory."""
    return "offload_optimizer" in content["zero_optimization"]


def stage(content: Content) -> int:
    """ZeRO's stage, 0 to 3."""
    number: int = content["zero_optimization"]["stage"]
    return number


def _is_path(setting: str) -> bool:
    return setting.endswith(".json") or "/" in setting


def _read(path: Path) -> Content:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"deepspeed: {path}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"deepspeed: {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"deepspeed: {path} must hold a JSON object, DeepSpeed's configuration")
    return content


def _completed(content: Content, where: str) -> Content:
    for key, decides in _DECIDED.items():
        value = content.get(key, "auto")
        if value != "auto" and value != {"enabled": "auto"}:
            raise ConfigError(
                f"{where}: {key} is set; {decides} of the training decides it, leave it out or auto"
            )
    sharing = content.get("zero_optimization", {"stage": 0})
    number = sharing.get("stage") if isinstance(sharing, dict) else None
    if number not in (0, 1, 2, 3) or isinstance(number, bool):
        raise ConfigError(f"{where}: zero_optimization.stage is {number!r}; it must be 0, 1, 2 or 3")
    offloaded = sharing.get("offload_optimizer")
    if offloaded is not None and (
        not isinstance(offloaded, dict) or offloaded.get("device") not in ("cpu", "nvme")
    ):
        raise ConfigError(
            f"{where}: zero_optimization.offload_optimizer must have a device, cpu or nvme, or be left out"
        )
    gather = "stage3_gather_16bit_weights_on_model_save"
    if sharing.get(gather, True) is not True:
        raise ConfigError(
            f"{where}: zero_optimization.{gather} must be true: the trained weights are saved whole"
        )
    for key in ("optimizer", "scheduler", "fp16", "torch_autocast"):
        content.pop(key, None)
    filled = dict.fromkeys(
        (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "gradient_clipping",
        ),
        "auto",
    )
    return content | filled | {
        "bf16": {"enabled": "auto"},
        "zero_optimization": sharing | ({gather: True} if number == 3 else {}),
    }  # fmt: skip
