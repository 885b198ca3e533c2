"""A plan as tables for a terminal, and as plain values for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from rounds.plan.assumptions import Assumptions
from rounds.plan.check import PublishedCheck
from rounds.plan.plan import Plan, StagePlan
from rstar.config import to_plain


def plain(plan: Plan, check: PublishedCheck, measured: dict[str, Any]) -> dict[str, Any]:
    """Everything that `show` shows."""
    return {
        "recipe": plan.recipe,
        "machine": plan.machine,
        "problems": plan.problems,
        "evaluation_problems": plan.evaluation_problems,
        "stages": [dataclasses.asdict(stage) for stage in plan.stages],
        "rounds": [dataclasses.asdict(stage) for stage in plan.rounds()],
        "total": dataclasses.asdict(plan.total),
        "peak_extra_disk_gb": plan.peak_extra_gb,
        "memory": [dataclasses.asdict(need) | {"fits": need.fits} for need in plan.memory],
        "assumed": to_plain(plan.assumed),
        "measured": measured,
        "published_check": dataclasses.asdict(check),
    }


def show(plan: Plan, check: PublishedCheck, measured: dict[str, Any], console: Console) -> None:
    """Print the plan with what it rests on."""
    console.print(
        f"[bold]{plan.recipe}[/bold] on {plan.machine}: {plan.problems:,} problems, "
        f"{plan.evaluation_problems:,} held out",
        highlight=False,
    )
    console.print(_stages(plan))
    console.print(
        f"and while a training runs up to {plan.peak_extra_gb:,.1f} GB of checkpoints\n", highlight=False
    )
    if plan.memory:
        console.print(_memory(plan))
    console.print(_assumptions(plan.assumed, measured))
    console.print(
        f"\nCheck: the paper's round 2 (747k problems, 60 A100-40GB) took {check.published_days:.0f} days. These assumptions "
        f"(none measured here) give {check.planned_days:.2f} days for this engine, {check.lock_step_days:.2f} for one that "
        f"searches in lock-step, and {check.tokens / 1e9:,.1f}G tokens; in 3 days that is {check.tokens_per_s_per_gpu:,.0f} tokens/s a GPU.",
        highlight=False,
    )


def _stages(plan: Plan) -> Table:
    table = Table(box=None, header_style="dim")
    names = ["stage", "tokens", "executions", "hours", "days", "GPU-hours", "disk"]
    for name in [*names, "price"] if plan.total.price is not None else names:
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=name == "stage")
    groups = {total.name: total for total in plan.rounds()}
    for name, total in groups.items():
        members = [stage for stage in plan.stages if stage.name.split("/")[0] == name]
        for stage in members:
            table.add_row(*_row(stage, f"  {stage.name}"))
        if len(members) > 1:
            table.add_row(*_row(total, name), style="bold")
    table.add_row(*_row(plan.total, "everything"), style="bold")
    return table


def _row(stage: StagePlan, name: str) -> list[str]:
    cells = [
        name, _count(stage.tokens), _count(stage.executions), f"{stage.hours:,.2f}", f"{stage.hours / 24:,.2f}",
        f"{stage.gpu_hours:,.1f}", f"{stage.disk_gb:,.2f} GB",
    ]  # fmt: skip
    return cells if stage.price is None else [*cells, f"{stage.price:,.0f}"]


def _memory(plan: Plan) -> Table:
    table = Table(title="memory per GPU", title_justify="left", box=None, header_style="dim")
    for name in ("what", "how", "needs", "has", ""):
        table.add_column(name, justify="right" if name in ("needs", "has") else "left")
    for need in plan.memory:
        verdict = "[green]fits[/green]" if need.fits else "[red]does not fit[/red]"
        way = f"{need.way} (the recipe's)" if need.chosen else need.way
        table.add_row(need.what, way, f"{need.gib:.1f} GiB", f"{need.available_gib:.0f} GiB", verdict)
    return table


def _assumptions(assumed: Assumptions, measured: dict[str, Any]) -> Table:
    table = Table(
        title="\nassumptions (--assume KEY=VALUE)", title_justify="left", box=None, show_header=False
    )
    for field in dataclasses.fields(assumed):
        value = getattr(assumed, field.name)
        text = (
            ", ".join(f"{k}: {v:.3g}" for k, v in value.items())
            if isinstance(value, dict)
            else f"{value:,.4g}"
        )
        table.add_row(field.name, text, "[green]measured[/green]" if field.name in measured else "")
    return table


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:,.1f}{unit}"
    return f"{number:,.0f}" if number else "–"
