"""Counts and parts as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rounds.charts.canvas import INK, PANEL, canvas, svg

ROW = 0.36
"""Inches of a horizontal bar with the space around it."""
LEGEND_COLUMNS = 3


def columns(title: str, bars: Mapping[str, int], *, colours: Sequence[str], xlabel: str) -> str:
    """One panel: counts as upright bars in their order, a colour each, each with its number."""
    figure, axes = canvas(*PANEL, title=title)
    axes.bar(range(len(bars)), list(bars.values()), color=list(colours), width=0.78)
    for at, count in enumerate(bars.values()):
        axes.text(
            at, count, f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k",
            ha="center", va="bottom", fontsize=9 if len(bars) <= 8 else 7.5, color=INK,
        )  # fmt: skip
    axes.set_xticks(range(len(bars)), list(bars), fontsize=9.5 if len(bars) <= 8 else 8)
    axes.set_ylim(0, 1.12 * max([1, *bars.values()]))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(xlabel)
    return svg(figure)


def parts(
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    *,
    colours: Mapping[str, str],
    xlabel: str = "",
    percent: bool = False,
) -> str:
    """One panel: rows from top to bottom, each a bar of its parts in the order of `colours`, which are named below; with
    `percent` every row is as long as the others, and parts are its shares."""
    from matplotlib.patches import Patch

    used = [name for name in colours if any(values.get(name) for values in rows.values())]
    legend_rows = -(-len(used) // LEGEND_COLUMNS)
    figure, axes = canvas(PANEL[0], 0.95 + ROW * len(rows) + 0.2 * legend_rows, title=title)
    totals = {row: sum(values.values()) for row, values in rows.items()}
    longest = 100.0 if percent else max([*totals.values(), 1e-9])
    digits = 0 if longest >= 10 else 1
    for at, (row, values) in enumerate(rows.items()):
        left = 0.0
        for name, colour in colours.items():
            width = values.get(name, 0.0) * (100 / (totals[row] or 1) if percent else 1)
            axes.barh(at, width, left=left, color=colour, height=0.7, edgecolor="white", linewidth=0.8)
            if width > 0.08 * longest:
                text = f"{width:.{digits}f}{'%' if percent else ''}"
                axes.text(left + width / 2, at, text, ha="center", va="center", fontsize=9, color="white")
            left += width
        if not percent:
            axes.text(left, at, f"  {left:.{digits}f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, longest * (1.0 if percent else 1.15))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    axes.set_xlabel(xlabel)
    figure.legend(
        handles=[Patch(color=colours[name], label=spaced(name)) for name in used], ncols=LEGEND_COLUMNS, frameon=False,
        loc="outside lower left", fontsize=9.5, handlelength=0.9, handleheight=0.9, handletextpad=0.5, columnspacing=1.4,
        labelcolor=INK, borderpad=0,
    )  # fmt: skip
    return svg(figure)


def spaced(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")
