"""A search tree, drawn from left to right: colour is Q, shape what a node is, the dark line the best way to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rounds.charts.canvas import FAILED, INK, LINE, SOFT, WIDE, canvas, svg
from rstar.steps import StepKind
from rstar.tree import ROOT, TerminalReason, Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Q_COLOURS = "RdYlBu"
"""Red is -1, blue +1: told apart by colour-blind readers, too."""


def tree_drawing(tree: Tree, best_path: Sequence[int] = ()) -> str:
    """The drawing, with its key above."""
    import matplotlib as mpl

    height = _heights(tree)
    rows = max(height.values())
    figure, axes = canvas(WIDE, max(2.6, min(9.0, 1.3 + 0.17 * rows)))
    best = {ROOT, *best_path}
    colours = mpl.colormaps[Q_COLOURS]
    for node_id, node in enumerate(tree.nodes):
        x, y = node.depth, -height[node_id]
        if node_id != ROOT:
            on_best = node_id in best
            axes.plot(
                [tree.nodes[node.parent].depth, x], [-height[node.parent], y], zorder=1,
                color=INK if on_best else LINE, linewidth=2 if on_best else 0.8,
            )  # fmt: skip
        if not node.live:
            axes.scatter([x], [y], marker="x", s=20, color=FAILED, linewidths=1.2, zorder=2)
            continue
        colour = colours((node.q_value + 1) / 2) if node.visit_count else "#ffffff"
        marker = "s" if node.kind is StepKind.ANSWER else "o"
        if node.terminal not in (None, TerminalReason.ANSWERED):
            marker = "D"
        edge = INK if node_id in best else SOFT
        axes.scatter([x], [y], marker=marker, s=50, color=[colour], edgecolors=edge, linewidths=1, zorder=3)
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(visible=False)
    axes.set_ylim(-rows - 1, 0)
    axes.set_xlabel("depth (steps from the question)")
    axes.set_xticks(range(max(node.depth for node in tree.nodes) + 1))
    _key(axes)
    return svg(figure)


def _heights(tree: Tree) -> dict[int, float]:
    """Rows from the top: leaves one below the other, parents between their first and last child."""
    heights: dict[int, float] = {}
    row = 0.0
    for node_id in _leaves_first(tree):
        children = tree.nodes[node_id].children
        if children:
            heights[node_id] = (heights[children[0]] + heights[children[-1]]) / 2
        else:
            row += 1
            heights[node_id] = row
    return heights


def _leaves_first(tree: Tree) -> list[int]:
    """Every node after its children, siblings in order."""
    found, waiting = [], [ROOT]
    while waiting:
        node_id = waiting.pop()
        found.append(node_id)
        waiting += tree.nodes[node_id].children
    return found[::-1]


def _key(axes: Axes) -> None:
    import matplotlib as mpl
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D

    right, both, wrong = (to_hex(mpl.colormaps[Q_COLOURS](share)) for share in (1.0, 0.5, 0.0))

    def mark(marker: str, colour: str, label: str) -> Line2D:
        edge = colour if marker == "x" else SOFT
        return Line2D(
            [], [], linestyle="", marker=marker, markersize=7, label=label, markerfacecolor=colour, markeredgecolor=edge
        )  # fmt: skip

    entries = [
        mark("o", right, "leads to right answers"),
        mark("o", both, "to both"),
        mark("o", wrong, "to wrong ones"),
        mark("s", "#ffffff", "an answer"),
        mark("x", FAILED, "its program failed"),
        mark("D", "#ffffff", "another end"),
        Line2D([], [], color=INK, linewidth=2, label="best verified solution"),
    ]
    axes.legend(
        handles=entries, ncols=4, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), fontsize=9.5,
        handletextpad=0.3, columnspacing=1.0, handlelength=1.2, labelcolor=INK,
    )  # fmt: skip
