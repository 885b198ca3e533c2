"""The command line, as far as it needs no training: problems, grading, search, trees, this machine.

`rstar.store_cli` adds the commands on stores, `rounds.cli` those that drive rounds; that is the entry point `rstar`. A user's mistake is one line on stderr
and exit code 2; so is anything else this project raises on purpose. Ctrl-C is exit code 130, and loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rstar.errors import ConfigError, ProblemError, RstarError, StoreError
from rstar.logs import LogLevel, on_stderr, write_to

if TYPE_CHECKING:
    from rstar.config import SearchConfig
    from rstar.engines import EngineConfig
    from rstar.grading import GraderConfig
    from rstar.problems import Problem
    from rstar.sandbox import SandboxConfig

app = typer.Typer(
    name="rstar",
    help="Monte-Carlo tree search over code-augmented reasoning steps, and the rounds that let a small language model "
    "teach itself mathematics with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
problems_app = typer.Typer(help="Check problem files, and make them fit for a run.", no_args_is_help=True)
app.add_typer(problems_app, name="problems")

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, such as search.num_rollouts=16. Repeatable."
    ),
]
Log = Annotated[
    Path | None, typer.Option(help="Append events to this file as JSON lines.", show_default=False)
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="The least that goes into the log.")]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="[HOST:]PORT", help="Answer Prometheus there while running.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Search on a Ray cluster: HOST:PORT of its head, auto for the one that runs here, local to start one.",
        show_default="this process",
    ),
]
StoreFolder = Annotated[Path, typer.Argument(help="Folder of the store.", show_default=False)]
ProblemsFile = Annotated[Path, typer.Argument(help="JSONL, JSON or Parquet.", show_default=False)]

INTERRUPTED = 130
WRONG = 2
"""Exit code for anything that is wrong with what was asked."""


def run(application: typer.Typer) -> None:
    """Run the command line of `application`; turn errors of this project into one line and an exit code."""
    try:
        with on_stderr():
            application()
    except RstarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG)
    except SystemExit as ended:  # which is also how a command ends that was interrupted
        if ended.code == INTERRUPTED:
            print(
                "stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr
            )
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


@contextmanager
def watched(log: Path | None, level: LogLevel, metrics: str | None) -> Iterator[None]:
    """While open: events in a log file and numbers for Prometheus, as far as they were asked for."""
    with ExitStack() as stack:
        stack.enter_context(write_to(log, level))
        if metrics is not None:
            from rstar.metrics import serve

            print(f"metrics: {stack.enter_context(serve(metrics))}", file=sys.stderr)
        yield


@app.command()
def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if an isolation layer is missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what this machine has: cores, memory, GPU, engines, and which layers of the sandbox hold."""
    from rstar.doctor import examine

    report = asyncio.run(examine())
    if as_json:
        print_json(report.plain())
    else:
        report.print(Console())
    if strict and not report.isolated:
        raise typer.Exit(1)


@problems_app.command("check")
def check_problems(
    file: ProblemsFile,
    keep: Annotated[
        bool, typer.Option("--keep", help="Go on after a malformed row and list all of them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read a problem file and say what is in it: rows by level, duplicates, missing answers, malformed rows."""
    from rstar.problems import OnError, read_problems

    found = read_problems(file, on_error=OnError.KEEP if keep else OnError.STOP)
    levels = dict(sorted(Counter(problem.level or "-" for problem in found.problems).items()))
    if as_json:
        print_json({
            "problems": len(found.problems), "levels": levels,
            "notices": [str(notice) for notice in found.notices], "faults": [str(fault) for fault in found.faults],
        })  # fmt: skip
        return
    rows = [("problems", len(found.problems)), *((f"  level {level}", n) for level, n in levels.items())]
    rows += [("kept, with a notice", len(found.notices)), ("left out, malformed", len(found.faults))]
    print_rows(file.name, rows)
    for fault in (*found.notices, *found.faults):
        print(fault, file=sys.stderr)


@app.command()
def grade(
    answer: Annotated[str, typer.Argument(help="The answer to judge, LaTeX or plain.")],
    reference: Annotated[str, typer.Argument(help="The answer that is right.")],
    as_json: AsJson = False,
) -> None:
    """Is an answer equal to a reference? Says why. Exit code 0 if equal, 1 if not."""
    from rstar.grading import Grader

    with Grader() as grader:
        verdict = grader.grade_sync(answer, reference)
    if as_json:
        print_json({"equal": verdict.equal, "reason": str(verdict.reason), "detail": verdict.detail})
    else:
        detail = f": {verdict.detail}" if verdict.detail else ""
        print(f"{'equal' if verdict.equal else 'not equal'} ({verdict.reason}{detail})")
    raise typer.Exit(0 if verdict.equal else 1)


@app.command()
def search(
    file: ProblemsFile,
    model: Annotated[
        Path, typer.Option(help="Folder of a Hugging Face causal language model.", show_default=False)
    ],
    store: Annotated[
        Path, typer.Option(help="Folder of the store that takes the trees.", show_default=False)
    ],
    settings: Settings = None,
    prompt_format: Annotated[
        str,
        typer.Option(
            help="bare: fine-tuned on the step format; rstar: the paper's prompt; few-shot, few-shot-chat: not trained on it."
        ),
    ] = "bare",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    ray: RayAddress = None,
    log: Log = None,
    log_level: Level = LogLevel.INFO,
    metrics: Metrics = None,
) -> None:
    """Search a tree for every problem of a file and keep the trees in a store. Run again, it goes on where it stopped.

    Settings: search.* (search.num_rollouts=8), sandbox.* (sandbox.cpu_s=2), engine.* (engine.num_replicas=1).
    """
    from rstar.config import SearchConfig, build, override
    from rstar.engines import EngineConfig
    from rstar.grading import GraderConfig
    from rstar.problems import read_problems
    from rstar.prompts import FORMATS
    from rstar.sandbox import SandboxConfig

    values = override({}, settings or [])
    kinds = {
        "search": SearchConfig,
        "sandbox": SandboxConfig,
        "grading": GraderConfig,
        "engine": EngineConfig,
    }
    for section in values:
        if section not in kinds:
            raise ConfigError(f"unknown section {section}; settings begin with {', '.join(kinds)}")
    search_config = build(SearchConfig, values.get("search", {}), where="search")
    sandbox = build(SandboxConfig, values.get("sandbox", {}), where="sandbox")
    grading = build(GraderConfig, values.get("grading", {}), where="grading")
    engine = build(EngineConfig, values.get("engine", {}), where="engine")
    if prompt_format not in FORMATS:
        raise ConfigError(f"--prompt-format is {prompt_format!r}; it must be one of {', '.join(FORMATS)}")
    found = read_problems(file)
    without = [problem.id for problem in found.problems if not problem.answer]
    if without:
        raise ProblemError(
            f"{file}: {len(without)} problems have no answer, {without[0]} among them; a search needs one"
        )
    with watched(log, log_level, metrics):
        parked = asyncio.run(
            _search(
                found.problems,
                model,
                store,
                search_config,
                sandbox,
                grading,
                engine,
                prompt_format,
                seed,
                ray,
            )
        )
    if parked:
        print(f"error: {parked} trees were parked (see above); run the same command again", file=sys.stderr)
        raise typer.Exit(1)


async def _search(
    problems: Sequence[Problem],
    model: Path,
    folder: Path,
    search: SearchConfig,
    sandbox: SandboxConfig,
    grading: GraderConfig,
    engine: EngineConfig,
    prompt_format: str,
    seed: int,
    ray: str | None,
) -> int:
    from rstar.campaign import search_into_store
    from rstar.searcher import LocalSearcher, OpenSearcher
    from rstar.store import Store

    open_searcher: OpenSearcher = LocalSearcher.open
    if ray is not None:
        from rstar.cluster import ClusterSearcher

        open_searcher = partial(ClusterSearcher.open, ray)
    return len(
        await search_into_store(
            problems, model=model, store=Store.create(folder), round_index=0, label="search", search=search,
            sandbox=sandbox, grading=grading, engine=engine, prompt_format=prompt_format, seed=seed,
            open_searcher=open_searcher,
        )
    )  # fmt: skip


@app.command()
def tree(
    store: StoreFolder,
    problem: Annotated[str, typer.Argument(help="Id of the problem.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write it to a .json, .graphml or .dot file instead of showing it.")
    ] = None,
    index: Annotated[int, typer.Option(help="Which of the problem's trees.")] = 0,
    round_index: Annotated[
        int | None, typer.Option("--round", help="Of which round; default: the last with such a tree.")
    ] = None,
) -> None:
    """Show one tree of a store in the terminal, or export it for other programs."""
    from rstar.exports import write_tree
    from rstar.store import Store
    from rstar.terminal import draw_tree

    trees = Store(store)
    rounds = [r.round for r in trees.records(round_index) if (r.problem_id, r.tree_index) == (problem, index)]
    if not rounds:
        of_round = "" if round_index is None else f" of round {round_index}"
        raise StoreError(
            f"{store} has no tree {problem}#{index}{of_round}; `rstar store trees` lists what it has"
        )
    found = trees.tree(problem, index, round=max(rounds))
    if out is not None:
        write_tree(found, out)
        print(out)
    else:
        Console().print(draw_tree(found))


def print_json(values: object) -> None:
    """JSON on stdout."""
    print(json.dumps(values, indent=1, ensure_ascii=False))


def print_rows(title: str, rows: list[tuple[str, Any]]) -> None:
    """A small table of names and values on stdout."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, cell(value))
    Console().print(table)


def print_records(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table on stdout with a row per record; the columns are the first one's keys, numbers to the right."""
    table = Table(box=None, header_style="dim")
    for name, value in rows[0].items() if rows else ():
        width = max(len(cell(row[name])) for row in rows)
        table.add_column(
            name.removeprefix("num_").replace("_", " "),
            justify="left" if isinstance(value, str) else "right",
            overflow="fold",
            min_width=min(width, 32),
        )
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    Console().print(table)


def cell(value: object) -> str:
    """A value as it stands in a table."""
    match value:
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3g}"
        case None:
            return "-"
        case _:
            return str(value)
