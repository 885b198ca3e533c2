"""The programs of examples/, run as their docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.world import REPOSITORY


def run(example: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"examples.{example}", *arguments]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_solve_shows_answers_of_both_policies_and_the_events_of_a_search() -> None:
    shown = run("solve")
    assert shown.count("stopped by") == 2
    assert "answer      40," in shown, "the scripted policy's vote is right"
    assert "finished: " in shown


def test_the_value_model_makes_the_search_better() -> None:
    lines = run("value_model").splitlines()
    without, guided = (int(line.split()[-1].rstrip("%")) for line in lines[-2:])
    assert guided > without


def test_failures_counts_ideas_and_draws_them(tmp_path: Path) -> None:
    shown = run("failures", "--plot", str(tmp_path / "failures.png"))
    assert "8 trees, " in shown
    assert "unsolved" in shown
    assert (tmp_path / "failures.png").stat().st_size > 1000
