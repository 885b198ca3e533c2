"""Shares as lines, named at their ends instead of in a legend: over rounds, and against tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rounds.charts.canvas import PANEL, canvas, spread, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_GAP = 0.085
"""Between the names of two lines, as a share of the axis' height."""
LOW = 0.06
"""A share below which there is no room for its number between the point and the axis."""
SHIFT = 0.07
"""Between lines that have intervals at the same rounds."""
CLOSE = 0.2
"""Shares that lie this near have their numbers on opposite sides; those of others follow the bend of the line."""
_BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}


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
    lines = _side_by_side(lines)
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
    """One panel: shares against tokens per problem, on a logarithmic axis, with bands where an interval is known. The last
    line lies above the others, its band is the darkest."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = canvas(PANEL[0], PANEL[1] + 0.4, title=title)
    axes.set_xscale("log")
    for line in lines:
        _draw(axes, line)
        banded = [p for p in line.points if p.low is not None and p.high is not None]
        axes.fill_between(
            [p.x for p in banded], [100 * (p.low or 0) for p in banded], [100 * (p.high or 0) for p in banded],
            color=line.colour, alpha=0.16 if line is lines[-1] else 0.08, linewidth=0,
        )  # fmt: skip
    least = min(min(p.share, p.share if p.low is None else p.low) for line in lines for p in line.points)
    _percent_axis(axes, max(0.0, math.floor(10 * least - 0.3) / 10))
    xs = [p.x for line in lines for p in line.points]
    axes.set_xlim(0.8 * min(xs), 1.1 * max(xs))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(xs) / min(xs) < 30 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tokens per problem")
    _labels_in_a_column(axes, lines)
    return svg(figure)


def losses(title: str, steps: Sequence[int], values: Sequence[float], *, colour: str, ylabel: str) -> str:
    """One panel: a training loss over optimiser steps, and its mean over a twentieth of them."""
    figure, axes = canvas(*PANEL, title=title)
    half = len(values) // 40
    smooth = [_mean(values[max(0, at - half) : at + half + 1]) for at in range(len(values))]
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(steps, smooth, color=colour, linewidth=1.8, marker="o" if len(steps) == 1 else "")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(ylabel)
    return svg(figure)


def _side_by_side(lines: Sequence[Line]) -> list[Line]:
    """Lines with intervals moved apart a little, so that no bar covers another."""
    wide = [line for line in lines if any(point.low is not None for point in line.points)]
    shifts = {id(line): SHIFT * (at - (len(wide) - 1) / 2) for at, line in enumerate(wide)}
    return [
        replace(line, points=[replace(point, x=point.x + shifts.get(id(line), 0.0)) for point in line.points])
        for line in lines
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _draw(axes: Axes, line: Line) -> None:
    axes.plot(
        [point.x for point in line.points], [100 * point.share for point in line.points], line.dashes,
        color=line.colour, linewidth=2.2 if line.dashes == "-" else 1.6, zorder=4 if line.dashes == "-" else 3,
        marker="" if line.dashes == ":" and len(line.points) > 1 else "o", markersize=4.5,
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
    for place, line in enumerate(lines):
        for at, point in enumerate(line.points[:-1] if line.numbered else ()):
            others = [
                (abs(p.share - point.share), p.share, other)
                for other, another in enumerate(lines)
                for p in another.points
                if other != place and round(p.x) == round(point.x)
            ]
            distance, nearest, other = min(others, default=(1.0, 0.0, place))
            if distance > CLOSE:
                above = not (at and line.points[at - 1].share > point.share < line.points[at + 1].share)
            else:
                above = nearest < point.share or (nearest == point.share and place < other)
            above = above or point.share < LOW
            # Beside an interval's bar, on the side where the line is not.
            rising = line.points[at + 1].share >= point.share
            side = 0 if point.low is None else -1 if rising == above else 1
            axes.annotate(
                f"{100 * point.share:.0f}", (point.x, 100 * point.share), (3 * side, 5 if above else -5),
                textcoords="offset points", ha=("right", "center", "left")[side + 1], va="bottom" if above else "top",
                fontsize=9, color=line.colour, zorder=4, bbox=_BEHIND_TEXT,
            )  # fmt: skip


def _end_labels(axes: Axes, lines: Sequence[Line]) -> None:
    """Each line's name and last number to the right of its last point; lines that end together are told apart."""
    bottom, top = axes.get_ylim()
    for end in sorted({round(line.points[-1].x) for line in lines}):
        together = [line for line in lines if round(line.points[-1].x) == end]
        x = max(line.points[-1].x for line in together)
        heights = [100 * line.points[-1].share for line in together]
        for line, height in zip(together, spread(heights, LABEL_GAP * (top - bottom)), strict=True):
            axes.annotate(
                _label(line), (x, height), (8, 0), textcoords="offset points", va="center", fontsize=9.5, color=line.colour,
                fontweight=_weight(line), bbox=_BEHIND_TEXT,
            )  # fmt: skip


def _labels_in_a_column(axes: Axes, lines: Sequence[Line]) -> None:
    """The same for lines that end anywhere: names at the right, joined to the ends by thin lines."""
    bottom, top = axes.get_ylim()
    right = axes.get_xlim()[1]
    ends = [100 * line.points[-1].share for line in lines]
    for line, end, height in zip(lines, ends, spread(ends, LABEL_GAP * (top - bottom)), strict=True):
        axes.annotate(
            _label(line), (right, height), (4, 0), textcoords="offset points", va="center", fontsize=9.5,
            color=line.colour, fontweight=_weight(line), annotation_clip=False,
        )  # fmt: skip
        xs, ys = [line.points[-1].x, right], [end, height]
        axes.plot(xs, ys, color=line.colour, linewidth=0.6, alpha=0.6, clip_on=False)


def _label(line: Line) -> str:
    return f"{line.label} {100 * line.points[-1].share:.0f}"


def _weight(line: Line) -> str:
    return "bold" if line.dashes == "-" else "normal"
