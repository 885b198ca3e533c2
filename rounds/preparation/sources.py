"""Where pools come from: files, or data sets of the `datasets` hub, in the layouts that `rstar.problems` reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from rstar.errors import ProblemError
from rstar.problems import OnError, ProblemSet, read_problems, read_rows

HUB = "hub:"


def read_pool(source: str) -> ProblemSet:
    """Read `hub:NAME[:SPLIT[:CONFIG]]` (split `train` if none is named; NAME may be a folder), or a problem file.
    Malformed rows are kept as faults.

    Raises ProblemError if nothing can be read, one line.
    """
    if not source.startswith(HUB):
        return read_problems(Path(source), on_error=OnError.KEEP)
    name, split, config = (*source.removeprefix(HUB).split(":"), "", "")[:3]
    return read_rows(
        _hub_rows(name, split or "train", config or None), name=Path(name).name, on_error=OnError.KEEP
    )


def _hub_rows(name: str, split: str, config: str | None) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise ProblemError(
            f'{HUB}{name} needs the package datasets; install it with pip install -c constraints.txt -e ".[data]"'
        ) from None
    try:
        found = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:  # no such data set, configuration or split; no network; offline
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ProblemError(f"{HUB}{name}: {first}") from None
    return cast(Iterable[Mapping[str, Any]], found)
