"""`rstar serve`: the solver behind OpenAI's API."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer
from rich.console import Console

from rounds.solve import (
    RUN,
    PolicyFolder,
    PPMFolder,
    PromptFormatName,
    RunFolder,
    StrategyName,
    chosen_models,
    make_solver,
)
from rstar.cli import Settings
from rstar.errors import ConfigError


def serve_command(
    policy: PolicyFolder = None,
    ppm: PPMFolder = None,
    run: RunFolder = RUN,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="RSTAR_API_KEY", help="What clients must send as bearer token.", show_default="nothing"
        ),
    ] = None,
    max_searches: Annotated[int, typer.Option(help="Searches at once.")] = 16,
    max_waiting: Annotated[int, typer.Option(help="Searches that may wait; further ones are refused.")] = 256,
    strategy: StrategyName = "mcts",
    settings: Settings = None,
    prompt_format: PromptFormatName = "bare",
    seed: Annotated[int, typer.Option(help="Seed of requests that name none.")] = 0,
) -> None:
    """Serve OpenAI's API: questions as chat completions, answered by a search. Ctrl-C ends it, with an answer to everyone.

    Settings: search.* (search.num_rollouts=16), sandbox.*, engine.* (engine.backend=vllm), server.* (server.max_seconds=60).
    Requests may change strategy and budgets for themselves: docs/server.md.
    """
    from rstar.config import build, override
    from rstar.server.config import ServerConfig

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"the server needs {module}, which is not installed; pip install 'rstar[serve]'"
            )
    from rstar.server.running import serve

    values = override({}, settings or [])
    options = {
        "host": host, "port": port, "api_key": api_key, "max_searches": max_searches, "max_waiting": max_waiting,
    }  # fmt: skip
    config = build(ServerConfig, {**options, **values.pop("server", {})}, where="server")
    models = chosen_models(run, policy, ppm)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if config.open_to_all:
        console.print(
            f"warning: listening at {config.host} without a key: whoever reaches this port may ask; set --api-key or RSTAR_API_KEY",
            style="yellow",
        )
    console.print(models.origin, style="dim")
    solver = make_solver(models, values, strategy=strategy, prompt_format=prompt_format, seed=seed)
    serve(solver, config, lambda url: console.print(f"model {config.model} at [bold]{url}/v1[/bold]"))
