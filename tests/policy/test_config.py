"""Settings: every wrong value is one clear line, and reading them needs no model code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policy.config import Choice, Packing, SFTConfig, SFTSetConfig
from rstar.config import build, to_plain
from rstar.errors import ConfigError


@pytest.mark.parametrize("kind", [SFTConfig, SFTSetConfig])
def test_settings_survive_being_written_and_read(kind: type) -> None:
    assert build(kind, to_plain(kind())) == kind()


def test_enums_are_read_from_their_text() -> None:
    assert build(SFTSetConfig, {"choice": "random"}).choice is Choice.RANDOM
    assert build(SFTConfig, {"packing": "flat"}).packing is Packing.FLAT


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            SFTConfig,
            {"micro_batch_size": 3},
            "micro_batch_size is 3; it must be a divisor of global_batch_size, 128",
        ),
        (
            SFTConfig,
            {"attention": "flash_attention_2"},
            "packing is 'rows'; it must be flat or off with attention flash_attention_2",
        ),
        (SFTConfig, {"epoch": 2}, "unknown key epoch; did you mean epochs?"),
        (SFTSetConfig, {"num_per_problem": 0}, "num_per_problem is 0; it must be at least 1"),
        (SFTSetConfig, {"max_similarity": 1.5}, "max_similarity is 1.5; it must be in [0, 1]"),
        (SFTSetConfig, {"min_correct_share": -1}, "min_correct_share is -1.0; it must be in [0, 1]"),
        (SFTSetConfig, {"max_tokens": 1}, "max_tokens is 1; it must be at least 2"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(kind, values)
    assert str(raised.value) == message


def test_settings_and_training_sets_import_no_torch(repository: Path) -> None:
    code = "import sys, policy.config, policy.sft_sets, policy.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0
