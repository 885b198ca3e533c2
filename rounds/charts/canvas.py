"""What all drawings share: colours with a meaning, axes without clutter, and SVG that is the same for the same numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1f2430", "#667085", "#d0d5dd"

# One colour per subject, in every figure; after Okabe and Ito, darkened so that labels can be read on white.
SEARCH = "#0067a8"
"""Search: what it finds, and policy and preference model together."""
POLICY = "#00805c"
"""The policy alone, greedy."""
PPM = "#c44e00"
"""The preference model: its data, its accuracy, and samples of the policy that it selects among."""
ORM = "#a23b8a"
"""The outcome reward model."""
PQM = "#6d55c8"
"""The model that regresses Q-values."""
VOTE = "#8a6a00"
"""Majority vote over samples."""
PAPER = "#7b8494"
"""Figures of the paper, dashed."""
CEILING = "#98a2b3"
"""What no selection can exceed, dotted."""
RIGHT, WRONG, FAILED = "#4575b4", "#d73027", "#7b8494"
"""Ends of a path: a right answer, a wrong one, none."""

PANEL = (4.6, 2.9)
"""Inches of a panel, of which two stand side by side on a wide screen and one on a phone."""
WIDE = 7.6
"""Inches of a drawing that needs the whole width; on a phone it scrolls."""


def canvas(width: float, height: float, *, title: str = "") -> tuple[Figure, Axes]:
    """One set of axes, titled at the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=9.5, length=3)
    axes.xaxis.label.set_color(SOFT)
    axes.yaxis.label.set_color(SOFT)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LINE, linewidth=0.5)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    return figure, axes


def svg(figure: Figure) -> str:
    """The drawing as SVG text, the same for the same numbers (no date, fixed ids)."""
    import matplotlib as mpl

    buffer = io.StringIO()
    settings: dict[Any, Any] = {"svg.hashsalt": "rstar", "svg.fonttype": "path"}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def spread(positions: list[float], gap: float) -> list[float]:
    """The positions moved as little as it takes to stand `gap` apart, in their order: where labels go."""
    order = sorted(range(len(positions)), key=lambda at: positions[at])
    groups: list[list[int]] = []

    def bottom(group: list[int]) -> float:
        return sum(positions[at] for at in group) / len(group) - gap * (len(group) - 1) / 2

    for at in order:
        groups.append([at])
        while len(groups) > 1 and bottom(groups[-2]) + gap * len(groups[-2]) > bottom(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    moved = list(positions)
    for group in groups:
        for place, at in enumerate(group):
            moved[at] = bottom(group) + gap * place
    return moved
