"""Counts and parts as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rounds.charts.canvas import INK, PANEL, WIDE, canvas, svg

ROW = 0.36
"""Inches of a horizontal bar with the space around it."""


def counts(bars: Mapping[str, int], *, colour: str, xlabel: str) -> str:
    """Counts as horizontal bars, largest first, each labelled with its number and share."""
    ordered = sorted(bars.items(), key=lambda item: item[1])
    total = max(1, sum(bars.values()))
    figure, axes = canvas(WIDE, 0.8 + ROW * max(1, len(ordered)))
    axes.barh([spaced(name) for name, _ in ordered], [n for _, n in ordered], color=colour, height=0.62)
    for row, (_, count) in enumerate(ordered):
        axes.text(count, row, f"  {count:,} ({count / total:.1%})", va="center", fontsize=9, color=INK)
    axes.set_xlim(0, 1.25 * max([1, *bars.values()]))
    axes.grid(visible=False)
    axes.set_xlabel(xlabel)
    return svg(figure)


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
    rows: Mapping[str, Mapping[str, float]], *, colours: Mapping[str, str], xlabel: str, percent: bool = False
) -> str:
    """Rows from top to bottom, each a bar of its parts in the order of `colours`, whose names stand above; with `percent`
    every row is as long as the others, and parts are its shares."""
    from matplotlib.patches import Patch

    figure, axes = canvas(WIDE, 1.1 + ROW * len(rows))
    totals = {row: sum(values.values()) or 1.0 for row, values in rows.items()}
    longest = 100.0 if percent else max(totals.values(), default=1.0)
    for at, (row, values) in enumerate(rows.items()):
        left = 0.0
        for name, colour in colours.items():
            width = values.get(name, 0.0) * (100 / totals[row] if percent else 1)
            axes.barh(at, width, left=left, color=colour, height=0.68, edgecolor="white", linewidth=0.8)
            if width > 0.06 * longest:
                text = f"{width:.0f}%" if percent else f"{width:,.0f}"
                axes.text(left + width / 2, at, text, ha="center", va="center", fontsize=9, color="white")
            left += width
        if not percent:
            axes.text(left, at, f"  {left:,.0f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, longest * (1.0 if percent else 1.12))
    axes.grid(visible=False)
    axes.set_xlabel(xlabel)
    used = [name for name in colours if any(values.get(name) for values in rows.values())]
    axes.legend(
        handles=[Patch(color=colours[name], label=spaced(name)) for name in used], ncols=max(1, len(used)), frameon=False,
        loc="lower left", bbox_to_anchor=(-0.01, 0.98), fontsize=9.5, handlelength=0.9, handleheight=0.9,
        handletextpad=0.5, columnspacing=1.4, labelcolor=INK, borderpad=0,
    )  # fmt: skip
    return svg(figure)


def spaced(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")
