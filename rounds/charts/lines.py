"""Shares as lines, named at their ends instead of in a legend: over rounds, and against tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rounds.charts.canvas import PANEL, canvas, spread, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_GAP = 0.085
"""Between the names of two lines, as a share of the axis' height."""


@dataclass(frozen=True)
class Point:
    """A share in [0, 1] at x, and how sure it is."""

    x: float
    share: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One colour of a drawing."""

    label: str
    colour: str
    points: Sequence[Point]
    dashes: str = "-"
    """Of matplotlib: "-", "--" or ":"."""
    numbered: bool = True
    """Every point has its number beside it; else the line's end alone."""


def shares(title: str, lines: Sequence[Line], *, ticks: Mapping[int, str]) -> str:
    """One panel: shares from 0 to 100% over rounds or depths, with upright bars where an interval is known."""
    figure, axes = canvas(*PANEL, title=title)
    for line in lines:
        _draw(axes, line)
        for point in line.points:
            if point.low is not None and point.high is not None:
                axes.plot(
                    [point.x, point.x], [100 * point.low, 100 * point.high], color=line.colour, linewidth=1.2, alpha=0.7
                )  # fmt: skip
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(min(ticks) - 0.25, max(ticks) + 0.15)
    _percent_axis(axes, 0.0)
    _numbers(axes, lines)
    _end_labels(axes, lines)
    return svg(figure)


def by_tokens(title: str, lines: Sequence[Line]) -> str:
    """One panel: shares against tokens per problem, on a logarithmic axis, with bands where an interval is known."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = canvas(PANEL[0], PANEL[1] + 0.4, title=title)
    axes.set_xscale("log")
    for line in lines:
        _draw(axes, line)
        banded = [p for p in line.points if p.low is not None and p.high is not None]
        axes.fill_between(
            [p.x for p in banded], [100 * (p.low or 0) for p in banded], [100 * (p.high or 0) for p in banded],
            color=line.colour, alpha=0.13, linewidth=0,
        )  # fmt: skip
    least = min(min(p.share, p.share if p.low is None else p.low) for line in lines for p in line.points)
    _percent_axis(axes, max(0.0, math.floor(10 * least - 0.3) / 10))
    xs = [p.x for line in lines for p in line.points]
    axes.set_xlim(0.8 * min(xs), 1.1 * max(xs))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(xs) / min(xs) < 30 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tokens per problem")
    _end_labels(axes, lines, leaders=True)
    return svg(figure)


def losses(title: str, steps: Sequence[int], values: Sequence[float], *, colour: str, ylabel: str) -> str:
    """One panel: a training loss over optimiser steps."""
    figure, axes = canvas(*PANEL, title=title)
    axes.plot(steps, values, color=colour, linewidth=1.6, marker="o" if len(steps) == 1 else "")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(ylabel)
    return svg(figure)


def _draw(axes: Axes, line: Line) -> None:
    axes.plot(
        [point.x for point in line.points], [100 * point.share for point in line.points], line.dashes,
        color=line.colour, linewidth=2.2 if line.dashes == "-" else 1.6, marker="o", markersize=4.5, zorder=3,
    )  # fmt: skip


def _percent_axis(axes: Axes, least: float) -> None:
    """From `least` to all, with room for numbers above."""
    room = 8 * (1 - least)
    axes.set_ylim(100 * least - room / 2, 100 + room)
    step = 25 if least < 0.3 else 10 if least < 0.75 else 5
    ticks = [tick for tick in range(0, 101, step) if tick >= 100 * least]
    axes.set_yticks(ticks, [f"{tick}%" for tick in ticks])


def _numbers(axes: Axes, lines: Sequence[Line]) -> None:
    """Beside the points of numbered lines, on the side where the nearest other line is not; the ends have labels."""
    for line in lines:
        for point in line.points[:-1] if line.numbered else ():
            others = [p.share for other in lines if other is not line for p in other.points if p.x == point.x]
            nearest = min(others, key=lambda share: abs(share - point.share), default=0.0)
            edge = point.low if nearest > point.share else point.high
            above = nearest <= point.share
            if edge is None or abs(edge - point.share) > 0.2:
                edge = point.share
            axes.annotate(
                f"{100 * point.share:.0f}", (point.x, 100 * edge), (0, 4 if above else -4), textcoords="offset points",
                ha="center", va="bottom" if above else "top", fontsize=9, color=line.colour,
            )  # fmt: skip


def _end_labels(axes: Axes, lines: Sequence[Line], *, leaders: bool = False) -> None:
    """The lines' names and last numbers, in a column at the right; `leaders` join them to ends that are further left."""
    drawn = [line for line in lines if line.points]
    bottom, top = axes.get_ylim()
    scale = top - bottom
    ends = [100 * line.points[-1].share for line in drawn]
    right = axes.get_xlim()[1]
    for line, end, place in zip(drawn, ends, spread(ends, LABEL_GAP * scale), strict=True):
        axes.text(
            1.025, (place - bottom) / scale, f"{line.label} {end:.0f}", transform=axes.transAxes, va="center",
            fontsize=9.5, color=line.colour, fontweight="bold" if line.dashes == "-" else "normal",
        )  # fmt: skip
        if leaders:
            axes.plot(
                [line.points[-1].x, right],
                [end, place],
                color=line.colour,
                linewidth=0.6,
                alpha=0.6,
                clip_on=False,
            )
