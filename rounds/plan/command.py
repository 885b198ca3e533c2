"""The command `rstar plan`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.console import Console

from rstar.cli import AsJson, Settings, print_json
from rstar.errors import ConfigError


def plan_command(
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")] = "embedded",
    gpus: Annotated[
        str | None, typer.Option(help="Such as 60xA100-40GB; --calibrate needs none.", show_default=False)
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training problems, if the recipe's files are not there yet.", show_default=False
        ),
    ] = None,
    evaluation_problems: Annotated[
        int | None, typer.Option(min=0, help="Held-out problems, likewise.", show_default=False)
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Per GPU-hour, in any currency.", show_default=False)
    ] = None,
    settings: Settings = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Change an assumption, such as tokens_per_step=80. Repeatable."
        ),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first, by a short real run: minutes.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="Problems of that run.")] = 48,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe costs before it runs: tokens, executions, hours, days, disk, money, by stage; whether its models fit.

    With --calibrate the rates and sizes are this machine's, and --gpus only says how many of it: 8xA100-40GB is 8 machines
    like this one.
    """
    from rounds.plan.assumptions import Assumptions
    from rounds.plan.calibration import calibrate as measure
    from rounds.plan.check import published_check
    from rounds.plan.hardware import known_gpus, read_gpus
    from rounds.plan.plan import make_plan
    from rounds.plan.rates import GpuRates, Rates
    from rounds.plan.render import plain, show
    from rounds.recipe import load_rounds
    from rstar.config import build, override, to_plain

    recipes = load_rounds(recipe, settings or [])
    asked = override({}, assume or [])
    coverage = asked.get("coverage")
    if isinstance(coverage, dict):
        asked["coverage"] = to_plain(Assumptions().coverage) | {
            str(key): value for key, value in coverage.items()
        }
    assumed = build(Assumptions, asked, where="--assume")
    measured: dict[str, Any] = {}
    rates: Rates
    if calibrate:
        count = read_gpus(gpus).count if gpus else 1
        found = measure(recipes[0], assumed, num_problems=sample)
        rates = dataclasses.replace(found.rates, count=count)
        measured = found.measured | {
            name: value for name, value in dataclasses.asdict(found.rates).items() if name.endswith("_s")
        }
        planned = found.assumed
    elif gpus is None:
        known = ", ".join(known_gpus())
        raise ConfigError(
            f"on which GPUs? Give --gpus 8xA100-40GB (known: {known}), or --calibrate for this machine"
        )
    else:
        rates, planned = GpuRates(read_gpus(gpus), assumed), assumed
    plan = make_plan(
        recipes, rates, planned, problems=problems, evaluation_problems=evaluation_problems, price=price
    )
    check = published_check(assumed)
    if as_json:
        print_json(plain(plan, check, measured))
    else:
        show(plan, check, measured, Console())
