"""Settings: every wrong value is one clear line, and reading them needs no model code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ppm.config import Objective, PairConfig, PPMConfig, ScoreBound, Sharing
from rstar.config import build, to_plain
from rstar.errors import ConfigError


@pytest.mark.parametrize("kind", [PairConfig, PPMConfig])
def test_settings_survive_being_written_and_read(kind: type) -> None:
    assert build(kind, to_plain(kind())) == kind()


def test_defaults_are_those_of_the_paper_and_its_code() -> None:
    pairs, training = PairConfig(), PPMConfig()
    assert (pairs.max_chosen, pairs.max_rejected, pairs.max_widened, pairs.num_final) == (2, 2, 4, 2)
    assert (pairs.min_q_margin, pairs.min_edit_distance) == (0.5, 20)
    assert (training.objective, training.score_bound) == (Objective.PPM, ScoreBound.TANH)
    assert (training.epochs, training.learning_rate, training.global_batch_size) == (1, 7e-6, 512)


def test_enums_are_read_from_their_text() -> None:
    read = build(PPMConfig, {"objective": "pqm", "score_bound": "none", "sharing": "prefix"})
    assert (read.objective, read.score_bound, read.sharing) == (
        Objective.PQM,
        ScoreBound.NONE,
        Sharing.PREFIX,
    )


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (PairConfig, {"max_chosen": 0}, "max_chosen is 0; it must be at least 1"),
        (
            PairConfig,
            {"max_widened": 1},
            "max_widened is 1; it must be at least max_chosen and max_rejected, 2",
        ),
        (PairConfig, {"min_q_margin": 2.5}, "min_q_margin is 2.5; it must be in [0, 2]"),
        (PairConfig, {"min_edit_distance": -1}, "min_edit_distance is -1; it must be at least 0"),
        (PairConfig, {"num_final": -1}, "num_final is -1; it must be at least 0"),
        (PairConfig, {"min_margin": 0.5}, "unknown key min_margin; did you mean min_q_margin?"),
        (PPMConfig, {"held_out_share": 0.0}, "held_out_share is 0.0; it must be in (0, 1)"),
        (
            PPMConfig,
            {"attention": "flash_attention_2"},
            "sharing is 'tree'; it must be off with attention flash_attention_2",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(kind, values)
    assert str(raised.value) == message


def test_settings_and_pairs_import_no_torch(repository: Path) -> None:
    code = "import sys, ppm.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0
