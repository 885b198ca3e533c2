"""Markdown tables of figures over seeds, as the benchmarks of rounds print them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A heading and a table; empty for no rows."""
    if not rows:
        return ""
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]
    return "\n".join((f"### {title}", "", *lines, ""))


def spread(shares: Sequence[float]) -> str:
    """Mean and range of shares in [0, 1] over seeds, in percent; a dash for none."""
    if not shares:
        return "–"
    mean = f"{100 * statistics.mean(shares):.1f} %"
    return mean if len(shares) == 1 else f"{mean} ({100 * min(shares):.1f}–{100 * max(shares):.1f})"


def interval(low: float, high: float) -> str:
    """A confidence interval of a share or of a difference of shares, in points."""
    return f"{100 * low:.1f} to {100 * high:.1f}"
