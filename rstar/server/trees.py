"""Searches to look at: those that run, and the last ones that ended."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime

from rstar.answers import Answer
from rstar.solver import question_id
from rstar.tree import Tree
from rstar.viewer import LiveTree, render_page
from rstar.viewer.live import END

PAUSE_S = 0.25
"""Between two looks at a running search."""
LABEL = "search"
_TITLE_CHARS = 120


@dataclass(slots=True, kw_only=True)
class Shown:
    """One search. `tree` is the solver's own, which grows."""

    id: str
    tree: Tree
    answer: Answer | None = None
    running: bool = True
    since: datetime = field(default_factory=lambda: datetime.now().astimezone())

    @property
    def state(self) -> str:
        """In a few words."""
        if self.running:
            return f"{len(self.tree.nodes) - 1} steps so far"
        if self.answer is None:
            return "given up"
        if self.answer.answer is None:
            return self.answer.reason
        return f"{self.answer.answer} ({self.answer.confidence:.0%} of the vote)"

    def page(self) -> str:
        """A page with the tree; of a running search, one that follows it."""
        live_url = f"{self.id}/events" if self.running else None
        return render_page({LABEL: self.tree}, title=self.tree.question[:_TITLE_CHARS], live_url=live_url)

    async def events(self) -> AsyncGenerator[str, None]:
        """What the page listens to, until the search has ended."""
        live = LiveTree(LABEL)
        while self.running:
            if event := live.event(self.tree):
                yield event
            await asyncio.sleep(PAUSE_S)
        yield live.event(self.tree)
        yield END


class Trees:
    """All searches that can be looked at, the newest last. Keeps `kept` that have ended."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._shown: dict[str, Shown] = {}

    def begin(self, search_id: str, question: str) -> Shown:
        """Show one more search, whose tree is a root until it is set."""
        shown = Shown(id=search_id, tree=Tree(problem_id=question_id(question), question=question))
        self._shown[search_id] = shown
        return shown

    def end(self, shown: Shown) -> None:
        """The search has ended, with an answer or without."""
        shown.running = False
        ended = [one.id for one in self._shown.values() if not one.running]
        for search_id in ended[: max(0, len(ended) - self._kept)]:
            del self._shown[search_id]

    def get(self, search_id: str) -> Shown | None:
        """A search, if it is still known."""
        return self._shown.get(search_id)

    def page(self) -> str:
        """A page with links to all, the newest first; it loads itself anew."""
        rows = "".join(
            f'<tr><td>{shown.since:%H:%M:%S}</td><td><a href="trees/{shown.id}">{html.escape(shown.tree.question[:_TITLE_CHARS])}'
            f"</a></td><td>{html.escape(shown.state)}</td></tr>\n"
            for shown in reversed(self._shown.values())
        )
        return _PAGE.format(rows=rows or "<tr><td>nothing was asked yet</td></tr>")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta http-equiv="refresh" content="3"><title>rstar: searches</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }} body {{ max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }} td {{ padding: .3rem .8rem .3rem 0; vertical-align: top; border-bottom: 1px solid #8884 }}
td:first-child {{ color: #888; white-space: nowrap }}
</style></head>
<body><h1>Searches</h1><table>
{rows}</table></body></html>
"""
