"""The report's drawings, as SVG texts. Each takes plain numbers and says one thing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rstar.steps import StepKind
from rstar.tree import ROOT, TerminalReason, Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1f2430", "#667085", "#d0d5dd"
SERIES = ("#2457c5", "#e08b2c", "#2e9e6b", "#8a4fbf", "#98a2b3")


@dataclass(frozen=True)
class Series:
    """One colour of a grouped bar chart: a share in [0, 1] per group, None where there is none, with an interval."""

    label: str
    shares: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()


def grouped_shares(groups: Sequence[str], series: Sequence[Series], *, ylabel: str) -> str:
    """Shares side by side per group, in percent, with error bars where an interval is known."""
    figure, axes = _axes(width=7.6, height=3.4)
    width = 0.8 / len(series)
    for position, one in enumerate(series):
        for group, share in enumerate(one.shares):
            if share is None:
                continue
            x = group - 0.4 + width * (position + 0.5)
            interval = one.intervals[group] if one.intervals else None
            error = (
                None if interval is None else [[100 * (share - interval[0])], [100 * (interval[1] - share)]]
            )
            axes.bar(
                x, 100 * share, width * 0.92, color=SERIES[position % len(SERIES)], yerr=error,
                error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3},
                label=one.label if group == next(i for i, s in enumerate(one.shares) if s is not None) else None,
            )  # fmt: skip
            top = 100 * (interval[1] if interval else share)
            axes.text(x, top + 1.5, f"{100 * share:.0f}", ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=10)
    return _svg(figure)


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> str:
    """Training loss over optimiser steps."""
    figure, axes = _axes(width=7.6, height=2.6)
    axes.plot(steps, losses, color=SERIES[0], linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("nats per policy token")
    return _svg(figure)


def counts(bars: Mapping[str, int], *, xlabel: str) -> str:
    """Counts as horizontal bars, largest first, each labelled with its number and share."""
    ordered = sorted(bars.items(), key=lambda item: item[1])
    total = max(1, sum(bars.values()))
    figure, axes = _axes(width=7.6, height=0.8 + 0.34 * max(1, len(ordered)))
    axes.barh(
        [name.replace("_", " ") for name, _ in ordered],
        [count for _, count in ordered],
        color=SERIES[0],
        height=0.62,
    )
    for row, (_, count) in enumerate(ordered):
        axes.text(count, row, f"  {count:,} ({count / total:.1%})", va="center", fontsize=9, color=INK)
    axes.set_xlim(0, 1.25 * max([1, *bars.values()]))
    axes.set_xlabel(xlabel)
    return _svg(figure)


def tree_drawing(tree: Tree, best_path: Sequence[int] = ()) -> str:
    """A tree from left to right: colour is Q, ringed the best path, squares answers, crosses steps that failed."""
    import matplotlib as mpl

    height: dict[int, float] = {}
    next_row = 0.0

    def place(node_id: int) -> float:
        nonlocal next_row
        children = tree.nodes[node_id].children
        if not children:
            next_row += 1.0
            height[node_id] = next_row
        else:
            rows = [place(child) for child in children]
            height[node_id] = (rows[0] + rows[-1]) / 2
        return height[node_id]

    place(ROOT)
    figure, axes = _axes(width=9.0, height=max(2.4, min(9.0, 0.9 + 0.16 * next_row)))
    best = {ROOT, *best_path}
    colours = mpl.colormaps["RdYlGn"]
    for node_id, node in enumerate(tree.nodes):
        x, y = node.depth, -height[node_id]
        if node_id != ROOT:
            parent = tree.nodes[node.parent]
            on_best = node_id in best
            axes.plot(
                [parent.depth, x], [-height[node.parent], y], zorder=1,
                color=INK if on_best else LINE, linewidth=1.8 if on_best else 0.8,
            )  # fmt: skip
        if not node.live:
            axes.scatter([x], [y], marker="x", s=18, color="#b42318", linewidths=1, zorder=2)
            continue
        colour = colours((node.q_value + 1) / 2) if node.visit_count else "#ffffff"
        marker = "s" if node.kind is StepKind.ANSWER else "o"
        if node.terminal not in (None, TerminalReason.ANSWERED):
            marker = "D"
        edge = INK if node_id in best else SOFT
        axes.scatter([x], [y], marker=marker, s=46, color=[colour], edgecolors=edge, linewidths=1, zorder=3)
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(visible=False)
    axes.set_xlabel("depth (steps from the question)")
    axes.set_xticks(range(max(node.depth for node in tree.nodes) + 1))
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=10)
    axes.xaxis.label.set_color(SOFT)
    axes.yaxis.label.set_color(SOFT)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LINE, linewidth=0.5)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The drawing as SVG text, the same for the same numbers (no date, fixed ids)."""
    import matplotlib as mpl

    buffer = io.StringIO()
    settings: dict[Any, Any] = {"svg.hashsalt": "rstar", "svg.fonttype": "path"}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
