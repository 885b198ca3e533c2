"""Numbers with intervals, one below the other: shares, and differences of shares around zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rounds.charts.canvas import LINE, PANEL, SOFT, canvas, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.36
"""Inches of a row."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval, as a share, and its colour. `paper` is what the paper has in its place."""

    label: str
    colour: str
    value: float
    low: float
    high: float
    paper: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def shares(title: str, rows: Sequence[Estimate]) -> str:
    """One panel: shares from 0 to 100%; a grey diamond is the paper's."""
    figure, axes = _rows(title, rows)
    for at, row in enumerate(rows):
        axes.plot([100 * row.value], [at], "o", markersize=7, color=row.colour)
        if row.paper is not None:
            axes.plot([100 * row.paper], [at], "D", markersize=5, color=SOFT, markerfacecolor="white")
        _number(axes, at, row, f"{100 * row.value:.0f}", bold=True)
    axes.set_xlim(0, 102)
    ticks = range(0, 101, 25)
    axes.set_xticks(ticks, [f"{tick}%" for tick in ticks])
    return svg(figure)


def differences(title: str, rows: Sequence[Estimate], *, reach: float, behind: str, ahead: str) -> str:
    """One panel: differences around zero, `reach` (a share) to either side. Hollow: the interval holds zero."""
    figure, axes = _rows(title, rows)
    for at, row in enumerate(rows):
        axes.plot(
            [100 * row.value], [at], "o", markersize=7, color=row.colour, markeredgewidth=1.6,
            markerfacecolor=row.colour if row.excludes_zero else "white",
        )  # fmt: skip
        _number(axes, at, row, f"{100 * row.value:+.1f}", bold=row.excludes_zero)
    axes.axvline(0, color=SOFT, linewidth=1, zorder=0)
    axes.set_xlim(-100 * reach, 100 * reach)
    axes.set_xlabel(f"← {behind}   points   {ahead} →", fontsize=9.5)
    return svg(figure)


def _rows(title: str, rows: Sequence[Estimate]) -> tuple[Figure, Axes]:
    figure, axes = canvas(PANEL[0], 1.15 + ROW * len(rows), title=title)
    for at, row in enumerate(rows):
        axes.plot([100 * row.low, 100 * row.high], [at, at], color=row.colour, linewidth=2)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.5)
    return figure, axes


def _number(axes: Axes, at: int, row: Estimate, text: str, *, bold: bool) -> None:
    axes.text(
        1.02, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5, color=row.colour,
        fontweight="bold" if bold else "normal",
    )  # fmt: skip
