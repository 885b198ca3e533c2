"""The command `rstar`: everything of `rstar.cli`, and the rounds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from rstar.cli import AsJson, Settings, app, print_json, run
from rstar.errors import ConfigError

if TYPE_CHECKING:
    from rounds.driver import StageStatus
    from rounds.recipe import RoundRecipe

_STYLES = {"complete": "green", "stale": "yellow", "partial": "cyan", "missing": "dim"}


@app.command("round")
def round_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NUMBER|status|show", help="The round to run; status: what is done; show: all settings."
        ),
    ],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")] = "embedded",
    settings: Settings = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Folder of the run.", show_default="runs/<recipe>")
    ] = None,
    index: Annotated[int, typer.Option("--round", help="Which round's status or settings.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run a round: search, train, evaluate, report. Finished stages are skipped; a stopped one goes on.

    A changed setting runs again what depends on it, and sets the old results aside.
    """
    from rounds.recipe import LAST_ROUND, load, plain

    if what not in ("status", "show"):
        if not what.isdecimal():
            raise ConfigError(
                f"{what!r} is no round; give a number from 1 to {LAST_ROUND}, or status, or show"
            )
        index = int(what)
    loaded = load(recipe, index, settings or [])
    folder = run_folder or Path("runs") / loaded.name
    command = _command(recipe, index, settings or [])
    if what == "show":
        import yaml

        print_json(plain(loaded)) if as_json else print(
            yaml.safe_dump(plain(loaded), sort_keys=False), end=""
        )
    elif what == "status":
        _status(loaded, folder, command, as_json=as_json)
    else:
        _run(loaded, folder, command, as_json=as_json)


def _run(recipe: RoundRecipe, folder: Path, command: str, *, as_json: bool) -> None:
    from rounds.driver import run_stages
    from rounds.stages import round_stages

    console = Console(stderr=True)

    def announce(status: StageStatus, what: str) -> None:
        seconds = f" in {status.manifest.seconds:,.0f} s" if what == "done" and status.manifest else ""
        console.print(
            f"[bold]{status.stage.name}[/bold]  {status.stage.purpose}: {what}{seconds}", highlight=False
        )

    manifests = run_stages(folder, round_stages(recipe, command=command), announce)
    report = folder / f"round{recipe.round_index}" / "report"
    if as_json:
        print_json({name: {"summary": m.summary, "seconds": m.seconds} for name, m in manifests.items()})
        return
    print(_headline((report / "report.md").read_text(encoding="utf-8")))
    print(f"report: {report / 'report.html'}")


def _headline(markdown: str) -> str:
    """The report's first figures."""
    return "\n".join(line.replace("**", "") for line in markdown.splitlines() if line.startswith("- **"))


def _status(recipe: RoundRecipe, folder: Path, command: str, *, as_json: bool) -> None:
    from rounds.driver import status
    from rounds.stages import round_stages

    found = status(folder, round_stages(recipe, command=command))
    if as_json:
        print_json([{"stage": s.stage.name, "progress": str(s.progress), "detail": s.detail} for s in found])
        return
    table = Table(box=None, header_style="dim")
    for name in ("stage", "", "made in", "why stale", "fingerprint"):
        table.add_column(name)
    for one in found:
        seconds = f"{one.manifest.seconds:,.0f} s" if one.manifest else ""
        progress = f"[{_STYLES[one.progress]}]{one.progress}[/]"
        table.add_row(one.stage.name, progress, seconds, one.detail, one.stage.fingerprint)
    Console().print(table)


def _command(recipe: str, index: int, settings: list[str]) -> str:
    parts = [f"make round{index}"]
    if recipe != "embedded":
        parts.append(f"RECIPE={shlex.quote(recipe)}")
    if settings:
        parts.append(f"SET={shlex.quote(' '.join(settings))}")
    return " ".join(parts)


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
