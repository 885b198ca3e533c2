"""The command `rstar`: everything of `rstar.cli` and `rstar.store_cli`, and the rounds."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from rounds.evals.command import eval_command
from rounds.plan.command import plan_command
from rounds.preparation.command import prepare_command
from rounds.serve import serve_command
from rounds.show import headline, report_command
from rounds.solve import solve_command
from rounds.store_export import export_command
from rounds.view import view_command
from rstar.cli import (
    AsJson,
    Level,
    Log,
    Metrics,
    RayAddress,
    Settings,
    app,
    print_json,
    problems_app,
    run,
    watched,
)
from rstar.errors import ConfigError
from rstar.logs import LogLevel
from rstar.store_cli import store_app

if TYPE_CHECKING:
    from rounds.artifact import Manifest
    from rounds.driver import Stage, StageStatus
    from rounds.recipe import RoundRecipe

MAY_STOP = ("all", "ablations")
"""What ends after a round that gains less than `min_coverage_gain`."""
INPUTS_SHOWN = 5
"""A stage that was made from more, a report, is made from everything."""
_STYLES = {"complete": "green", "stale": "yellow", "partial": "cyan", "missing": "dim"}


problems_app.command("prepare")(prepare_command)
app.command("plan")(plan_command)
app.command("solve")(solve_command)
app.command("eval")(eval_command)
app.command("report")(report_command)
app.command("serve")(serve_command)
app.command("view")(view_command)
store_app.command("export")(export_command)
app.add_typer(store_app, name="store")


@app.command("round")
def round_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NUMBER|all|ablations|status|show",
            help="The round to run, after those before it; ablations: all, then the last with parts of the method "
            "replaced; status: what is done; show: all settings.",
        ),
    ],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")] = "embedded",
    settings: Settings = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Folder of the run.", show_default="runs/<recipe>")
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(
            "--round",
            help="Up to which round the status goes, whose settings are shown, or which round is ablated.",
            show_default="the last",
        ),
    ] = None,
    ray: RayAddress = None,
    as_json: AsJson = False,
    log: Log = None,
    log_level: Level = LogLevel.INFO,
    metrics: Metrics = None,
) -> None:
    """Run rounds: search, train, evaluate, report. Finished stages are skipped; a stopped one goes on.

    A changed setting runs again what depends on it, and sets the old results aside. With --set rounds.3.KEY=VALUE it
    changes in one round, otherwise in all.
    """
    from rounds.recipe import load_rounds, plain

    if what not in ("all", "ablations", "status", "show"):
        if not what.isdecimal():
            raise ConfigError(f"{what!r} is no round; give a number, or all, ablations, status or show")
        index = int(what)
    recipes = load_rounds(recipe, settings or [])
    last = len(recipes) if index is None else index
    if not 1 <= last <= len(recipes):
        raise ConfigError(f"there is no round {last}; {recipe} has rounds 1 to {len(recipes)}")
    folder = run_folder or Path("runs") / recipes[0].name
    arguments = _arguments(recipe, settings or [])
    complete = last == len(recipes)
    if what == "show":
        values = plain(recipes[last - 1])
        if as_json:
            print_json(values)
        else:
            import yaml

            print(yaml.safe_dump(values, sort_keys=False), end="")
    elif what == "status":
        _status(recipes[:last], folder, arguments, complete=complete, as_json=as_json)
    else:
        with watched(log, log_level, metrics):
            _run(recipes[:last], folder, arguments, what, ray, complete=complete, as_json=as_json)


@app.command()
def processbench(
    data: Annotated[Path, typer.Argument(help="JSON or JSONL in ProcessBench's format.", show_default=False)],
    model: Annotated[Path, typer.Option(help="Folder of a preference model.", show_default=False)],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score below which a step is wrong.",
            show_default="the best on half of the rows, on the other half",
        ),
    ] = None,
    prompt_format: Annotated[str, typer.Option(help="How the problem is put to the model.")] = "bare",
    as_json: AsJson = False,
) -> None:
    """How well a preference model finds the first wrong step of a solution."""
    import asyncio
    from dataclasses import asdict

    from ppm.processbench import evaluate_model
    from rstar.prompts import FORMATS

    if prompt_format not in FORMATS:
        raise ConfigError(f"no prompt format {prompt_format!r}; there are {', '.join(FORMATS)}")
    found = asyncio.run(evaluate_model(data, model, format=FORMATS[prompt_format], threshold=threshold))
    if as_json:
        print_json({**asdict(found), "f1": found.f1})
        return
    chosen = f"chosen on {found.num_calibration} other rows" if found.num_calibration else "given"
    print(f"F1 {found.f1:.1%}, threshold {found.threshold:.3g} ({chosen})")
    print(f"first wrong step found: {found.accuracy_erroneous:.1%} of {found.num_erroneous}")
    print(f"right solutions left alone: {found.accuracy_correct:.1%} of {found.num_correct}")


def _run(
    recipes: Sequence[RoundRecipe],
    folder: Path,
    arguments: str,
    what: str,
    ray: str | None,
    *,
    complete: bool,
    as_json: bool,
) -> None:
    from rounds.ablation_stages import ablation_stages
    from rounds.driver import run_stages
    from rounds.health import coverage
    from rounds.stages import stages_by_round
    from rounds.workplace import HERE, on_ray

    workplace = HERE if ray is None else on_ray(ray)
    console = Console(stderr=True)

    def announce(status: StageStatus, what: str) -> None:
        seconds = f" in {status.manifest.seconds:,.0f} s" if what == "done" and status.manifest else ""
        console.print(
            f"[bold]{status.stage.name}[/bold]  {status.stage.purpose}: {what}{seconds}", highlight=False
        )

    manifests: dict[str, Manifest] = {}
    shares: list[float] = []
    by_round = stages_by_round(recipes, complete=complete, arguments=arguments, workplace=workplace)

    def ablations(last: int) -> list[Stage]:
        before = [*itertools.chain(*by_round[:last])]
        return ablation_stages(
            recipes[:last], before, complete=complete, arguments=arguments, workplace=workplace
        )

    if what == "ablations":
        ablations(len(recipes))  # what is wrong is said before anything runs
    for recipe, stages in zip(recipes, by_round, strict=True):
        manifests |= run_stages(folder, stages, announce)
        shares.append(coverage(manifests[f"round{recipe.round_index}/search"].summary))
        least = recipe.min_coverage_gain
        if what in MAY_STOP and least is not None and len(shares) > 1 and shares[-1] - shares[-2] < least:
            console.print(
                f"coverage went from {shares[-2]:.1%} to {shares[-1]:.1%}: a gain below min_coverage_gain, {least:.1%}, "
                f"so no round after {recipe.round_index}",
                highlight=False,
            )
            break
    report = folder / f"round{len(shares)}" / "report"
    if what == "ablations":
        stages = ablations(len(shares))
        manifests |= run_stages(folder, stages, announce)
        report = folder / stages[-1].name
    if as_json:
        print_json({name: {"summary": m.summary, "seconds": m.seconds} for name, m in manifests.items()})
        return
    print(headline((report / "report.md").read_text(encoding="utf-8")))
    print(f"report: {report / 'report.html'}")


def _status(
    recipes: Sequence[RoundRecipe], folder: Path, arguments: str, *, complete: bool, as_json: bool
) -> None:
    from rounds.ablation_stages import FOLDER, ablation_stages
    from rounds.driver import status
    from rounds.stages import stages_by_round

    by_round = stages_by_round(recipes, complete=complete, arguments=arguments)
    stages = [*itertools.chain(*by_round)]
    if (folder / FOLDER).exists():
        stages += ablation_stages(recipes, stages, complete=complete, arguments=arguments)
    found = status(folder, stages)
    if as_json:
        print_json(
            [
                {
                    "stage": s.stage.name,
                    "progress": str(s.progress),
                    "detail": s.detail,
                    "fingerprint": s.stage.fingerprint,
                    "seed": s.stage.seed,
                    "settings": s.stage.settings,
                    "inputs": {name: made.fingerprint for name, made in s.stage.inputs.items()},
                }
                for s in found
            ]
        )
        return
    table = Table(box=None, header_style="dim")
    for name in ("stage", "", "time", "fingerprint", "seed", "made from", "why stale"):
        table.add_column(name, no_wrap=name in ("stage", "fingerprint"))
    for one in found:
        seconds = f"{one.manifest.seconds:,.0f} s" if one.manifest else ""
        progress = f"[{_STYLES[one.progress]}]{one.progress}[/]"
        inputs = one.stage.inputs
        made_from = ", ".join(f"{name} {made.fingerprint[:8]}" for name, made in inputs.items())
        if len(inputs) > INPUTS_SHOWN:
            made_from = f"{len(inputs)} stages"
        table.add_row(
            one.stage.name, progress, seconds, one.stage.fingerprint[:8], str(one.stage.seed), made_from, one.detail
        )  # fmt: skip
    Console().print(table)


def _arguments(recipe: str, settings: list[str]) -> str:
    """What follows `make round1` so that it does the same."""
    parts = [""]
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
