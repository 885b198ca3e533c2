"""What all trainings have in common is read and refused in the same words, under flat keys."""

from __future__ import annotations

from typing import Any

import pytest

from policy.config import SFTConfig
from ppm.config import PPMConfig
from rstar.config import build, to_plain
from rstar.errors import ConfigError
from rstar.training.config import Precision, Schedule


@pytest.mark.parametrize("kind", [SFTConfig, PPMConfig])
def test_keys_are_flat_and_enums_are_read_from_their_text(kind: type) -> None:
    read: Any = build(kind, {"learning_rate": 0.1, "precision": "bfloat16", "schedule": "cosine"})
    assert (read.learning_rate, read.precision, read.schedule) == (0.1, Precision.BFLOAT16, Schedule.COSINE)
    assert {"learning_rate", "epochs", "num_threads"} <= to_plain(read).keys()


@pytest.mark.parametrize("kind", [SFTConfig, PPMConfig])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(
            ({name: 0}, f"{name} is 0; it must be at least 1")
            for name in ("epochs", "global_batch_size", "max_length", "logging_steps", "save_steps")
        ),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be finite and above 0"),
        ({"warmup_ratio": 1.0}, "warmup_ratio is 1.0; it must be in [0, 1)"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be finite and at least 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0; it must be finite and at least 0"),
        ({"num_threads": 0}, "num_threads is 0; it must be at least 1, or null"),
        ({"num_processes": 0}, "num_processes is 0; it must be at least 1, or null"),
        ({"lora": {"rank": 0}}, "lora.rank is 0; it must be at least 1"),
        ({"lora": {"alpha": 0}}, "lora.alpha is 0; it must be at least 1"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout is 1.0; it must be in [0, 1)"),
        ({"lora": {"ranks": 8}}, "unknown key lora.ranks; did you mean rank?"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_clear_line(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(kind, values)
    assert str(raised.value) == message
