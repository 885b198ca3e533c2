"""A report's content as blocks, rendered twice: as Markdown, and as one HTML page that needs nothing else.

Figures are drawn once as SVG: in the page they are inline, beside the Markdown they are files.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from pathlib import Path

_STYLE = """
:root { color-scheme: light; --ink: #1f2430; --soft: #667085; --line: #e4e7ec; --tint: #f6f8fb; --accent: #2457c5; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: var(--ink); margin: 0; background: #fff; }
main { max-width: 980px; margin: 0 auto; padding: 40px 24px 96px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 21px; margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 28px 0 4px; }
p { margin: 8px 0 12px; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, monospace; background: var(--tint); padding: 1px 4px; border-radius: 4px; }
.note { color: var(--soft); font-size: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0 20px; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
tr.strong td { font-weight: 600; }
table.wrapped td { white-space: normal; text-align: left; vertical-align: top; } table.wrapped td:first-child { min-width: 180px; }
table.wrapped th { text-align: left; }
figure { margin: 16px 0 24px; } figure svg { display: block; max-width: 100%; height: auto; }
.panels { display: grid; gap: 16px 28px; align-items: start; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.wide svg { max-width: none; }
details { margin: 12px 0 20px; } summary { cursor: pointer; color: var(--accent); }
figcaption { color: var(--soft); font-size: 14px; margin-top: 6px; }
nav { columns: 2 260px; margin: 16px 0 8px; font-size: 15px; } nav a { display: block; padding: 2px 0; color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(max(150px, 30%), 1fr)); gap: 12px; margin: 20px 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; background: var(--tint); }
.card b { display: block; font-size: 22px; white-space: nowrap; color: var(--accent); } .card span { color: var(--soft); font-size: 14px; }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A section's title; level 2 or 3."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text; `note` in a quieter tone."""

    text: str
    note: bool = False


@dataclasses.dataclass(frozen=True)
class Cards:
    """A few headline figures: (figure, what it is)."""

    cards: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts under a header; `strong` are the indices of rows to stress."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()
    wrapped: bool = False
    """Cells hold sentences, which may take several lines."""
    folded: str = ""
    """A long table that a reader opens by clicking on this line."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """SVG drawings under one caption, side by side where there is room; `wide` ones keep their size and scroll on a phone.
    `name` is that of their files beside the Markdown."""

    name: str
    drawings: Sequence[str]
    caption: str
    wide: bool = False

    def files(self) -> dict[str, str]:
        """File name to drawing."""
        if len(self.drawings) == 1:
            return {f"{self.name}.svg": self.drawings[0]}
        return {f"{self.name}-{at}.svg": drawing for at, drawing in enumerate(self.drawings, start=1)}


@dataclasses.dataclass(frozen=True)
class Code:
    """Verbatim text."""

    text: str


Block = Heading | Paragraph | Cards | Table | Figure | Code


@dataclasses.dataclass(frozen=True)
class Page:
    """A title, a line below it, and blocks."""

    title: str
    subtitle: str
    blocks: Sequence[Block]


def write(page: Page, folder: Path, name: str) -> None:
    """Write `name`.md with its figures, and `name`.html, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for block in page.blocks:
        if isinstance(block, Figure):
            for file, drawing in block.files().items():
                (folder / file).write_text(drawing, encoding="utf-8")
    (folder / f"{name}.md").write_text(to_markdown(page), encoding="utf-8")
    (folder / f"{name}.html").write_text(to_html(page), encoding="utf-8")


def to_markdown(page: Page) -> str:
    """The page as GitHub-flavoured Markdown."""
    parts = [f"# {page.title}", page.subtitle, *(_markdown(block) for block in page.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text, note):
            return f"*{text}*" if note else text
        case Cards(cards):
            return "\n".join(f"- **{figure}** {what}" for figure, what in cards)
        case Table(header, rows, strong, _, folded):
            lines = [header, ["---", *["---:"] * (len(header) - 1)]]
            lines += [[f"**{cell}**" if i in strong else cell for cell in row] for i, row in enumerate(rows)]
            table = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
            return (
                f"<details><summary>{html.escape(folded)}</summary>\n\n{table}\n\n</details>"
                if folded
                else table
            )
        case Figure(_, _, caption, _):
            first_sentence = caption.partition(". ")[0]
            images = " ".join(f"![{first_sentence}]({file})" for file in block.files())
            return f"{images}\n\n*{caption}*"
        case Code(text):
            return f"```text\n{text}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def to_html(page: Page) -> str:
    """The page as one HTML document: no scripts, no other files, no links but to its own sections."""
    body = "\n".join(_html(block) for block in page.blocks)
    title, subtitle = html.escape(page.title), _inline(page.subtitle)
    sections = [block.text for block in page.blocks if isinstance(block, Heading) and block.level == 2]
    contents = "".join(f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f'<p class="note">{subtitle}</p>\n<nav>{contents}</nav>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _inline(text: str) -> str:
    """Escaped, with `code` between backticks set as code."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:
        return html.escape(text)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower()).strip("-")


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{_anchor(text)}">{html.escape(text)}</h{level}>'
        case Paragraph(text, note):
            return f"<p{' class=note' if note else ''}>{_inline(text)}</p>"
        case Cards(cards):
            inner = "".join(
                f'<div class="card"><b>{html.escape(f)}</b><span>{html.escape(w)}</span></div>'
                for f, w in cards
            )
            return f'<div class="cards">{inner}</div>'
        case Table(header, rows, strong, wrapped, folded):
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            lines = "\n".join(
                f"<tr{' class=strong' if i in strong else ''}>"
                + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
                + "</tr>"
                for i, row in enumerate(rows)
            )
            opening = "<table class=wrapped>" if wrapped else "<table>"
            table = f'<div class="scroll">{opening}<thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'
            return f"<details><summary>{html.escape(folded)}</summary>{table}</details>" if folded else table
        case Figure(_, drawings, caption, wide):
            label = html.escape(caption)
            inner = "".join(
                drawing[drawing.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
                for drawing in drawings
            )
            layout = "wide scroll" if wide else "panels"
            return f'<figure><div class="{layout}">{inner}</div><figcaption>{label}</figcaption></figure>'
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
