"""`rstar solve`: one question, answered before one's eyes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rstar.cli import AsJson, Settings, print_json
from rstar.errors import ConfigError

if TYPE_CHECKING:
    from rstar.answers import Answer
    from rstar.solver import Solver

ABSTAINED = 1
"""Exit code where there is no answer."""
RUN = Path("runs/embedded")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Models:
    """Folders of a policy and of the preference model that belongs to it, and where they come from."""

    policy: Path
    ppm: Path | None
    origin: str


def latest_models(run: Path) -> Models:
    """The models of the last round of a run that has both; without such a round the embedded base model alone."""
    from rounds.artifact import read_manifest
    from rounds.base_model import BASE_MODEL
    from rounds.recipe import LAST_ROUND

    for index in range(LAST_ROUND, 0, -1):
        policy, ppm = (run / f"round{index}" / name for name in ("policy", "ppm"))
        if read_manifest(policy) is not None and read_manifest(ppm) is not None:
            return Models(policy, ppm, f"models of {run}, round {index}")
    return Models(
        BASE_MODEL, None, f"the embedded base model, untrained: {run} has no finished round yet (make rounds)"
    )


def chosen_models(run: Path, policy: Path | None, ppm: Path | None) -> Models:
    """The folders that were named, or those of the run; with another policy, no preference model of the run."""
    models = latest_models(run) if policy is None else Models(policy, None, f"policy {policy}")
    return models if ppm is None else Models(models.policy, ppm, models.origin)


PolicyFolder = Annotated[
    Path | None, typer.Option("--policy", help="Folder of the policy.", show_default="the last of --run")
]
PPMFolder = Annotated[
    Path | None,
    typer.Option(
        "--ppm", help="Folder of the preference model.", show_default="that of --run, none with --policy"
    ),
]
RunFolder = Annotated[Path, typer.Option("--run", help="A run whose last round has the models.")]
StrategyName = Annotated[str, typer.Option("--strategy", help="mcts, beam, best_of_n, majority or greedy.")]
PromptFormatName = Annotated[
    str,
    typer.Option("--prompt-format", help="bare: fine-tuned on the step format; rstar: the paper's prompt."),
]


def solve_command(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    policy: PolicyFolder = None,
    ppm: PPMFolder = None,
    run: RunFolder = RUN,
    strategy: StrategyName = "mcts",
    seconds: Annotated[float | None, typer.Option(help="Answer by then with what is known.")] = None,
    certainty: Annotated[
        float | None, typer.Option(help="Stop when the vote is decided with this probability.")
    ] = None,
    settings: Settings = None,
    prompt_format: PromptFormatName = "bare",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    tree: Annotated[
        Path | None, typer.Option(help="Also write the tree to a .json, .graphml or .dot file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question. In a terminal the tree is shown while it grows; exit code 1 if there is no answer.

    Settings: search.* (search.num_rollouts=16, search.max_tree_tokens=5000), sandbox.*, engine.* (engine.backend=vllm).
    """
    from rstar.config import override
    from rstar.exports import write_tree
    from rstar.terminal import draw_answer

    if question == STDIN:
        question = sys.stdin.read().strip()
    models = chosen_models(run, policy, ppm)
    console = Console(stderr=True)
    if policy is None and not as_json:
        console.print(models.origin, style="dim", highlight=False)
    with make_solver(
        models, override({}, settings or []), strategy=strategy, seconds=seconds, certainty=certainty,
        prompt_format=prompt_format, seed=seed,
    ) as solver:  # fmt: skip
        shown = console.is_terminal and not as_json
        found = _watched(solver, question, console) if shown else solver.solve(question)
    if tree is not None:
        write_tree(found.tree, tree)
    if as_json:
        print_json(found.plain())
    else:
        Console().print(draw_answer(found))
    if found.answer is None:
        raise typer.Exit(ABSTAINED)


def make_solver(
    models: Models,
    settings: Mapping[str, Any],
    *,
    strategy: str,
    prompt_format: str,
    seed: int,
    seconds: float | None = None,
    certainty: float | None = None,
) -> Solver:
    """A solver with settings of the sections search, sandbox and engine. Raises ConfigError for others, or wrong ones."""
    from rstar.config import SearchConfig, build, to_plain
    from rstar.engines import EngineConfig
    from rstar.sandbox import SandboxConfig
    from rstar.solver import INFERENCE, Solver

    for section in settings:
        if section not in ("search", "sandbox", "engine"):
            raise ConfigError(f"unknown section {section}; settings begin with search, sandbox, engine")
    return Solver(
        models.policy,
        ppm=models.ppm,
        backend=build(EngineConfig, settings.get("engine", {}), where="engine"),
        search=build(SearchConfig, {**to_plain(INFERENCE), **settings.get("search", {})}, where="search"),
        sandbox=build(SandboxConfig, settings.get("sandbox", {}), where="sandbox"),
        strategy=strategy,
        seconds=seconds,
        certainty=certainty,
        prompt_format=prompt_format,
        seed=seed,
    )


def _watched(solver: Solver, question: str, console: Console) -> Answer:
    """The answer, the tree drawn anew with every event."""
    from rich.live import Live

    from rstar.answers import Finished
    from rstar.terminal import draw_search

    async def watch() -> Answer:
        with Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop") as live:
            async for event in solver.stream(question):
                if isinstance(event, Finished):
                    return event.answer
                live.update(draw_search(event.tree, event.node_ids, height=console.height - 2), refresh=True)
        raise AssertionError("a stream ends with its answer")

    return asyncio.run(watch())
