"""`rstar report` finds the newest report of a run, or says that there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rounds.cli  # noqa: F401 - registers the commands
from rounds.artifact import Manifest, begin, finish
from rounds.show import headline, latest_report
from rstar.cli import app
from rstar.errors import StageError


def make_report(run: Path, name: str, figure: str) -> None:
    folder = run / name / "report"
    begin(folder, "fingerprint")
    (folder / "report.md").write_text(f"# Report\n\n- **{figure}** greedy\n\ntext\n")
    (folder / "report.html").write_text("<html></html>")
    manifest = Manifest(
        schema_version=1, stage=f"{name}/report", fingerprint="fingerprint", settings={}, seed=0, inputs={}, outputs={},
        summary={}, seconds=0.0, versions={},
    )  # fmt: skip
    finish(folder, manifest)


def test_the_last_finished_report_is_shown(tmp_path: Path) -> None:
    make_report(tmp_path, "round1", "50%")
    make_report(tmp_path, "round2", "60%")
    (tmp_path / "round3/report").mkdir(parents=True)  # begun, not finished
    assert latest_report(tmp_path) == tmp_path / "round2/report"
    ran = CliRunner().invoke(app, ["report", str(tmp_path), "--no-open"])
    assert ran.output.splitlines() == ["- 60% greedy", f"report: {tmp_path}/round2/report/report.html"]
    found = json.loads(CliRunner().invoke(app, ["report", str(tmp_path), "--json"]).output)
    assert found["figures"] == ["- 60% greedy"]


def test_ablations_come_last(tmp_path: Path) -> None:
    make_report(tmp_path, "round4", "60%")
    make_report(tmp_path, "ablations", "61%")
    assert latest_report(tmp_path) == tmp_path / "ablations/report"


def test_a_run_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="has no report yet; a round ends with one"):
        latest_report(tmp_path)


def test_the_headline_is_the_cards_without_their_stress() -> None:
    assert headline("# t\n\n- **1%** a\n- **2%** b\n\n- other\n") == "- 1% a\n- 2% b"
