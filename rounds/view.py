"""`rstar view`: a stored tree, or two side by side, in the browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar.cli import StoreFolder
from rstar.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from rstar.store import Store

_OTHER = r"(\d+)(?::(\d+))?"


def view_command(
    store: StoreFolder,
    problem: Annotated[str, typer.Option(help="Id of the problem.", show_default=False)],
    index: Annotated[int, typer.Option(help="Which of the problem's trees.")] = 0,
    round_index: Annotated[
        int | None, typer.Option("--round", help="Of which round.", show_default="the last with such a tree")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="ROUND[:INDEX]",
            help="A second tree of the problem, beside the first.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="in the folder for temporary files")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Write the file, open no browser.")] = False,
) -> None:
    """Look at a search tree in the browser: one HTML file that needs nothing else.

    Shows every step with its Q-value, visits, PPM score and verdict, the best path, code and output on click, and replays
    the search rollout by rollout. `rstar store trees STORE` lists problems.
    """
    import tempfile
    import webbrowser

    from rstar.store import Store
    from rstar.viewer import render_page

    trees = Store(store)
    wanted = [(_round_of(trees, problem, index, round_index), index)]
    if other is not None:
        wanted.append(_parse(other))
        if wanted[0] == wanted[1]:
            raise ConfigError(f"--with is {other}, the tree itself; give another round or index")
    found = {_label(*which): trees.tree(problem, which[1], round=which[0]) for which in wanted}
    if out is None:
        name = re.sub(r"[^\w.-]+", "-", problem) + "".join(f"-{round}-{at}" for round, at in wanted)
        out = Path(tempfile.mkdtemp(prefix="rstar-view-")) / f"{name}.html"
    try:
        out.write_text(render_page(found, title=problem), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}") from None
    print(out)
    if not no_open:
        webbrowser.open(out.resolve().as_uri())


def _label(round_index: int, index: int) -> str:
    return f"round {round_index}, tree {index}"


def _parse(other: str) -> tuple[int, int]:
    """Round and index of `--with`."""
    parts = re.fullmatch(_OTHER, other)
    if parts is None:
        raise ConfigError(f"--with is {other!r}; it must be ROUND or ROUND:INDEX, such as 4 or 4:1")
    return int(parts[1]), int(parts[2] or 0)


def _round_of(store: Store, problem: str, index: int, round_index: int | None) -> int:
    """The last round, or this one, that has the tree. Raises StoreError if there is none."""
    rounds = [r.round for r in store.records(round_index) if (r.problem_id, r.tree_index) == (problem, index)]
    if not rounds:
        of_round = "" if round_index is None else f" of round {round_index}"
        raise StoreError(
            f"{store.folder} has no tree {problem}#{index}{of_round}; `rstar store trees` lists what it has"
        )
    return max(rounds)
