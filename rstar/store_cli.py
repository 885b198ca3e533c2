"""The commands on stores: `rstar store …`. (`rounds.store_export` adds the one that needs training sets.)"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rstar.cli import AsJson, StoreFolder, cell, print_json, print_records, print_rows
from rstar.errors import ConfigError

if TYPE_CHECKING:
    from rstar.store.diff import Difference
    from rstar.store.sql import Result

store_app = typer.Typer(
    help="Look into a store of trees, ask it questions in SQL, compare rounds, check it, tidy it up, import into it and "
    "export from it. A store is a folder of Parquet files that a search or a stage of a round has written.",
    no_args_is_help=True,
)

MAX_SHOWN = 200
"""Rows of a query that a table shows; --csv and --json give all."""
IDS_SHOWN = 8
STDIN = "-"
_SIDE = "Folder of a store; of a store with several rounds FOLDER:ROUND."


@store_app.command()
def summary(store: StoreFolder, as_json: AsJson = False) -> None:
    """What is in a store: trees, nodes, rounds, how many problems are solved."""
    from rstar.store import Store

    _print(Store(store).summary(), as_json=as_json)


@store_app.command()
def trees(store: StoreFolder, as_json: AsJson = False) -> None:
    """List the trees of a store: problem, round, outcome, size."""
    from rstar.store import Store

    shown = (
        "round", "problem_id", "tree_index", "level", "outcome", "num_rollouts", "num_nodes", "num_tokens", "seconds",
    )  # fmt: skip
    rows = [{name: getattr(record, name) for name in shown} for record in Store(store).records()]
    _print(rows, as_json=as_json)


def _print(records: list[Any], *, as_json: bool) -> None:
    rows = [record if isinstance(record, dict) else asdict(record) for record in records]
    if as_json:
        print_json(rows)
    elif rows:
        print_records(rows)
    else:
        print("the store is empty")


@store_app.command()
def validate(store: StoreFolder, as_json: AsJson = False) -> None:
    """Read all of a store and say what is wrong: damaged files, broken links, counts and values that do not add up.

    Nothing is changed; each fault comes with what to do about it. Exit code 0 for a sound store, 1 for faults.
    """
    from rstar.store import Store

    opened = Store(store)
    faults = opened.validate()
    if as_json:
        print_json([asdict(fault) for fault in faults])
    else:
        for fault in faults:
            print(fault)
        for remedy in dict.fromkeys(fault.remedy for fault in faults):
            print(f"what to do: {remedy}")
        num_trees = 0 if faults else len(opened.records())
        print(
            f"{len(faults):,} faults" if faults else f"the store is sound: {num_trees:,} trees",
            file=sys.stderr,
        )
    raise typer.Exit(1 if faults else 0)


@store_app.command()
def compact(store: StoreFolder, as_json: AsJson = False) -> None:
    """Rewrite a store's small files as few large ones and drop superseded versions of trees.

    Also finishes what a killed writer left behind. Refused while a search is writing.

    May be killed itself: the next writer or compaction goes on.
    """
    from rstar.store import Store

    report = Store(store).compact()
    if as_json:
        print_json(asdict(report))
        return
    print(
        f"{report.num_files_before:,} files, {report.num_bytes_before / 1e6:,.1f} MB, are now {report.num_files_after:,}, "
        f"{report.num_bytes_after / 1e6:,.1f} MB; {report.num_versions_dropped:,} superseded trees are gone"
    )


@store_app.command()
def sql(
    store: Annotated[
        Path,
        typer.Argument(help="Folder of a store, or one with stores below it: a run.", show_default=False),
    ],
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="SELECT…",
            help="The query; - reads it from standard input. Without one, the views and their columns are listed.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, all rows, as they come.")] = False,
) -> None:
    """Ask a store in SQL (DuckDB's). Its tables: nodes, trees, trajectories, pairs, sft.

    Every table has the columns store and round; nodes have their q_value. Of a reopened tree the last state is shown.

    Trees that a search has finished a moment ago are there, too. Nothing can be changed.

      rstar store sql runs/embedded "select store, level, avg((outcome = 'solved')::int) from trees group by all"

      rstar store sql STORE "select depth, avg(q_value) from nodes group by all order by 1" --csv
    """
    from rstar.store.sql import Database

    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other")
    if query is None:
        _list_columns(as_json=as_json)
        return
    with Database(store) as database:
        result = database.query(sys.stdin.read() if query == STDIN else query)
        if as_csv:
            writer = csv.writer(sys.stdout)
            writer.writerow(result.columns)
            writer.writerows(result)
        elif as_json:
            print_json([_plain(dict(zip(result.columns, row, strict=True))) for row in result])
        else:
            _show(result)


def _list_columns(*, as_json: bool) -> None:
    from rstar.store import Kind
    from rstar.store.sql import view_columns

    names = ("column", "type", "meaning")
    views = {
        str(kind): [dict(zip(names, column, strict=True)) for column in view_columns(kind)] for kind in Kind
    }
    if as_json:
        print_json(views)
        return
    for view, columns in views.items():
        Console().print(f"[bold]{view}[/bold]")
        print_records(columns)


def _show(result: Result) -> None:
    rows = iter(result)
    shown = [dict(enumerate(row)) for row in islice(rows, MAX_SHOWN)]
    named = [{name: row[at] for at, name in enumerate(result.columns)} for row in shown]
    if named:
        print_records(named)
    more = sum(1 for _ in rows)
    print(
        f"{len(named) + more:,} rows" + (f", {more:,} not shown: --csv or --json has all" if more else ""),
        file=sys.stderr,
    )


def _plain(value: Any) -> Any:
    """A value of a query as JSON has it: no number for NaN and infinity is null."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


@store_app.command()
def diff(
    a: Annotated[str, typer.Argument(help=_SIDE, show_default=False)],
    b: Annotated[str, typer.Argument(help=_SIDE, show_default=False)],
    as_json: AsJson = False,
) -> None:
    """What changed from one round to another: problems solved and lost, coverage by level, cost, endings, Q-values.

    rstar store diff runs/embedded/round1/search/store runs/embedded/round2/search/store

    rstar store diff STORE:1 STORE:2
    """
    from rstar.store.diff import compare, parse_side

    found = compare(parse_side(a), parse_side(b))
    if as_json:
        print_json(asdict(found))
    else:
        _print_difference(found)


def _print_difference(found: Difference) -> None:
    def share(count: int, total: int) -> str:
        return f"{count:,} ({count / total:.1%})" if total else "-"

    a, b = found.a, found.b
    rows: list[dict[str, Any]] = [
        {"": name, "a": cell(left), "b": cell(right), "change": change}
        for name, left, right, change in [
            ("round", a.round, b.round, ""),
            ("problems", a.num_problems, b.num_problems, ""),
            ("solved", share(a.num_solved, a.num_problems), share(b.num_solved, b.num_problems), ""),
            *(
                (
                    f"  level {change.level or '-'}, {change.num_problems} in both",
                    share(change.num_solved_a, change.num_problems),
                    share(change.num_solved_b, change.num_problems),
                    f"{(change.num_solved_b - change.num_solved_a) / change.num_problems:+.1%}",
                )
                for change in found.levels
            ),
            *(
                (name, left, right, _ratio(left, right))
                for name, left, right in [
                    ("trees", a.num_trees, b.num_trees),
                    ("rollouts", a.num_rollouts, b.num_rollouts),
                    ("nodes", a.num_nodes, b.num_nodes),
                    ("tokens", a.num_tokens, b.num_tokens),
                    ("executions", a.num_executions, b.num_executions),
                    ("seconds", a.seconds, b.seconds),
                ]
            ),
            *(
                (f"ended: {ending}", a.endings.get(ending, 0), b.endings.get(ending, 0), "")
                for ending in sorted(a.endings.keys() | b.endings.keys())
            ),
            ("right answers", share(a.num_right, a.num_answers), share(b.num_right, b.num_answers), ""),
            ("mean Q of right answers", a.mean_q_right, b.mean_q_right, ""),
        ]
    ]
    print(f"a: {a.store}\nb: {b.store}")
    print_records(rows)
    print_rows("", [
        (name, f"{len(ids):,}" + (f": {', '.join(ids[:IDS_SHOWN])}{', …' if len(ids) > IDS_SHOWN else ''}" if ids else ""))
        for name, ids in (
            ("newly solved", found.newly_solved), ("lost", found.lost),
            ("problems of a only", found.only_a), ("problems of b only", found.only_b),
        )
    ])  # fmt: skip


def _ratio(left: float, right: float) -> str:
    return f"x{right / left:,.2f}" if left else ""


@store_app.command("import")
def import_command(
    files: Annotated[list[Path], typer.Argument(help="JSONL, or JSON with one array.", show_default=False)],
    store: Annotated[
        Path, typer.Option(help="Folder of the store that takes the trees.", show_default=False)
    ],
    round_index: Annotated[int, typer.Option("--round", help="Round that they become.")] = 0,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave malformed rows out, list them, and import the others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import trees that rStar-Math's released code has written: an object per problem, with its nodes under "rstar".

    Everything is read and checked before anything is written. Answers are judged by our grader.

    docs/store.md says what is mapped and what is lost. Exit code 1 if rows were left out.

      rstar store import outputs/math.mcts.jsonl --store runs/imported
    """
    from rstar.store import Store
    from rstar.store_import import import_files

    found = import_files(files, Store.create(store), round=round_index, skip_malformed=skip)
    for message in found.malformed:
        print(message, file=sys.stderr)
    if as_json:
        print_json(asdict(found))
    else:
        print_rows(str(store), [
            ("trees", found.num_trees), ("nodes", found.num_nodes), ("answers", found.num_answers),
            ("  right", found.num_right), ("  judged otherwise by their search", found.num_judged_otherwise),
            ("steps not in the step format", found.num_unparsable),
            ("nodes whose visits did not add up", found.num_recounted),
            ("rows left out, malformed", len(found.malformed)),
        ])  # fmt: skip
    raise typer.Exit(1 if found.malformed else 0)
