"""`rstar report`: the newest report of a run, in figures here and as a page in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from rounds.solve import RUN
from rstar.cli import AsJson, print_json
from rstar.errors import StageError


def headline(markdown: str) -> str:
    """The first figures of a report."""
    return "\n".join(line.replace("**", "") for line in markdown.splitlines() if line.startswith("- **"))


def latest_report(run: Path) -> Path:
    """The folder of the newest finished report of a run: of its ablations, else of its last round.

    Raises StageError if no round has ended yet.
    """
    from rounds.artifact import read_manifest
    from rounds.recipe import LAST_ROUND

    names = ("ablations", *(f"round{index}" for index in range(LAST_ROUND, 0, -1)))
    for name in names:
        folder = run / name / "report"
        if read_manifest(folder) is not None:
            return folder
    raise StageError(
        f"{run} has no report yet; a round ends with one: make round1, or rstar round 1 --run {run}"
    )


def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")] = RUN,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a run has come to: its newest report's first figures, and the page in the browser.

    Reports are made by `rstar round`; this one only finds them.
    """
    folder = latest_report(run)
    page, text = folder / "report.html", folder / "report.md"
    figures = headline(text.read_text(encoding="utf-8"))
    if as_json:
        print_json({"html": str(page), "markdown": str(text), "figures": figures.splitlines()})
        return
    print(figures)
    print(f"report: {page}")
    if not no_open:
        webbrowser.open(page.resolve().as_uri())
