"""`rstar eval`: ways to answer, side by side on problem sets, for the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rounds.solve import RUN, Models, latest_models
from rstar.cli import AsJson, RayAddress, Settings, print_json
from rstar.errors import ConfigError

SECTIONS = ("search", "num_trajectories", "num_samples", "sandbox", "grading", "engine")


def eval_command(
    sets: Annotated[
        list[str],
        typer.Argument(
            help="Problem sets: embedded, math-500, aime-2024, aime-2025, amc-2023, olympiadbench, college-math, gsm8k, "
            "gaokao-2023-en, a problem file, or hub:NAME[:SPLIT[:CONFIG]]. With --samples: files of samples."
        ),
    ],
    policy: Annotated[
        Path | None, typer.Option(help="Folder of the policy.", show_default="the last of --run")
    ] = None,
    ppm: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the preference model.", show_default="that of --run, none with --policy"
        ),
    ] = None,
    run: Annotated[Path, typer.Option(help="A run whose last round has the models.")] = RUN,
    out: Annotated[
        Path, typer.Option(help="Folder of the evaluation; the same command goes on in it.")
    ] = Path("evaluation"),
    data: Annotated[
        Path | None, typer.Option(help="Folder with files of named sets, used before the hub.")
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Of mcts,beam,best_of_n,majority,greedy.", show_default="all that the models allow"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only so many problems of a set, spread over its levels.")
    ] = None,
    settings: Settings = None,
    prompt_format: Annotated[
        str, typer.Option(help="bare: fine-tuned on the step format; rstar: the paper's prompt.")
    ] = "bare",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    samples: Annotated[
        bool,
        typer.Option("--samples", help="The files hold samples with answers and scores: aggregate those."),
    ] = False,
    ray: RayAddress = None,
    as_json: AsJson = False,
) -> None:
    """Compare ways to answer on problem sets, at equal token budgets, with confidence intervals.

    Settings: search.* (search.num_rollouts=4, search.sampling.temperature=0.6), num_trajectories=4, num_samples=64, engine.*.
    """
    if samples:
        _aggregate([Path(name) for name in sets], seed, as_json=as_json)
        return
    from rounds.evals.page import write_report
    from rounds.evals.run import evaluate_sets
    from rounds.evals.sets import load_set
    from rounds.workplace import HERE, on_ray

    console = Console(stderr=True)
    models = latest_models(run) if policy is None else Models(policy, None, str(policy))
    if ppm is not None:
        models = Models(models.policy, ppm, models.origin)
    loaded = [load_set(name, data=data, limit=limit, seed=seed) for name in dict.fromkeys(sets)]
    what = _evaluand(models, strategies, settings or [], prompt_format, seed)
    workplace = HERE if ray is None else on_ray(ray)
    results = evaluate_sets(loaded, what, out, console=console, open_searcher=workplace.open_searcher)
    page = write_report(results, out)
    if as_json:
        print_json(results.plain())
        return
    for one in results.sets:
        table = Table(
            title=f"{one.title}: {one.levels['all']} problems, {one.budget:,.0f} tokens each", title_justify="left",
            title_style="bold", box=None, header_style="dim",
        )  # fmt: skip
        for name in ("", "trees", "tokens", "accuracy", "95 %"):
            table.add_column(name, justify="left" if not name else "right")
        for row in one.compared["all"]:
            point = row.point
            table.add_row(
                row.label, f"{point.num_trees}{'†' if row.exhausted else ''}", f"{point.tokens:,.0f}",
                f"{point.accuracy:.1%}", f"{100 * point.interval.low:.0f}–{100 * point.interval.high:.0f}",
            )  # fmt: skip
        Console().print(table)
    print(f"report: {page}")


def _evaluand(
    models: Models, strategies: str | None, settings: list[str], prompt_format: str, seed: int
) -> Any:
    from rounds.evals.config import EvalConfig
    from rounds.evals.run import Evaluand
    from rstar.config import build, override, require, to_plain
    from rstar.prompts import FORMATS
    from rstar.solver import INFERENCE, member
    from rstar.strategies import NEED_VALUE, Strategy

    require(prompt_format in FORMATS, "--prompt-format", prompt_format, f"one of {', '.join(FORMATS)}")
    values = override({"search": to_plain(INFERENCE)}, settings)
    if strategies is None:
        chosen = [one for one in Strategy if models.ppm is not None or one not in NEED_VALUE]
    else:
        chosen = [member(Strategy, name.strip(), "--strategies") for name in strategies.split(",")]
    if not chosen:
        raise ConfigError("--strategies is empty; name one at least")
    return Evaluand(
        policy=models.policy, ppm=models.ppm, prompt_format=prompt_format, strategies=tuple(dict.fromkeys(chosen)),
        config=build(EvalConfig, values), seed=seed,
    )  # fmt: skip


def _aggregate(files: list[Path], seed: int, *, as_json: bool) -> None:
    from rounds.evals.offline import aggregate, read_samples
    from rounds.evals.results import plain_point

    found = {str(file): aggregate(read_samples(file), seed=seed) for file in files}
    if as_json:
        print_json({
            name: {str(method): [plain_point(point) for point in points] for method, points in curves.items()}
            for name, curves in found.items()
        })  # fmt: skip
        return
    for name, curves in found.items():
        table = Table(title=name, title_justify="left", title_style="bold", box=None, header_style="dim")
        table.add_column("samples")
        first = next(iter(curves.values()))
        for point in first:
            table.add_column(str(point.num_trees), justify="right")
        for method, points in curves.items():
            table.add_row(str(method).replace("_", " "), *(f"{point.accuracy:.1%}" for point in points))
        Console().print(table)
