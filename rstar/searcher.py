"""Where trees are searched: a campaign hands tasks to a `Searcher` and stores what comes back.

`LocalSearcher` opens the engines in this process; `rstar.cluster` opens them on many machines. What crosses between them
is plain data that can be pickled: tasks hold trees and reference answers, and engines, value models and judges are made
where the search runs. Trees are the same wherever they are searched, as far as the back-ends' answers are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from rstar.grading import NoReferenceJudge, ReferenceJudge
from rstar.prompts import FORMATS
from rstar.search import Follow, SearchTask, TreeSearch, finish_search, search_trees

if TYPE_CHECKING:
    from rstar.config import SearchConfig
    from rstar.evaluation import Engines, SearchCounts
    from rstar.grading import Grader
    from rstar.protocols import ValueBackend
    from rstar.search import SearchResult
    from rstar.tree import Tree

OpenEngines = Callable[[], AbstractAsyncContextManager[tuple["Engines", "Grader"]]]
"""Starts policy, sandbox and grader where it is called; can be pickled where a cluster is to call it."""
OpenValue = Callable[[], "ValueBackend"]
"""Makes the value model where it is called; can be pickled where a cluster is to call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTask:
    """One tree to search, as it travels: new (`tree` has a root only) or reopened."""

    tree: Tree
    reference: str | None
    """The right answer; None at inference, where no answer is verified."""
    num_rollouts: int
    """More rollouts to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSetup:
    """What turns tasks into trees: all but the tasks."""

    open_engines: OpenEngines
    open_value: OpenValue | None
    model: Path
    """Folder of the policy: what a machine must see."""
    search: SearchConfig
    prompt_format: str
    max_trees_in_flight: int
    """In one process."""
    num_gpus: int
    """GPUs that the engines of one process take, where there are any."""
    follow: Follow = TreeSearch.run
    """How each tree is searched; can be pickled."""


class Searcher(Protocol):
    """Searches trees until it is closed; one `search` at a time."""

    def search(self, tasks: Iterable[TreeTask], counts: SearchCounts) -> AsyncIterator[SearchResult]:
        """Each tree as it ends, in the order in which they end; `counts` says what has been done so far, all the while.

        Closing the iterator cancels what is in flight. Raises ConfigError for a setting that cannot be used, BackendError
        if there is nothing left to search with.
        """
        ...

    async def aclose(self) -> None: ...


OpenSearcher = Callable[[SearchSetup], Awaitable[Searcher]]
"""Makes a searcher ready; raises ConfigError or SandboxError for models and settings that cannot be used."""


class SearchSite:
    """Engines that are open in this process, and the search of single trees with them."""

    def __init__(self, setup: SearchSetup) -> None:
        self.setup = setup
        self._stack = AsyncExitStack()

    async def open(self) -> Self:
        """Start everything; what has been started is closed again if something fails."""
        try:
            engines, self._grader = await self._stack.enter_async_context(self.setup.open_engines())
            if self.setup.open_value is not None:
                value = self.setup.open_value()
                self._stack.push_async_callback(value.aclose)
                engines = replace(engines, value=value)
            self.engines = engines
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    def task(self, task: TreeTask) -> SearchTask:
        """The task with a judge of its own."""
        reference = task.reference
        judge = (
            NoReferenceJudge(self._grader) if reference is None else ReferenceJudge(self._grader, reference)
        )
        return SearchTask(tree=task.tree, judge=judge, num_rollouts=task.num_rollouts)

    async def search_one(self, task: TreeTask, counts: SearchCounts) -> SearchResult:
        """Search one tree to its end."""
        made = self.task(task)
        search = TreeSearch(
            made.tree, self.engines, made.judge, self.setup.search,
            format=FORMATS[self.setup.prompt_format], counts=counts,
        )  # fmt: skip
        return await finish_search(search, made.num_rollouts, self.setup.follow)

    async def aclose(self) -> None:
        """Close value model, policy, grader and sandbox."""
        await self._stack.aclose()


class LocalSearcher:
    """`Searcher` in this process."""

    def __init__(self, site: SearchSite) -> None:
        self._site = site

    @classmethod
    async def open(cls, setup: SearchSetup) -> Self:
        """Start the engines in this process."""
        return cls(await SearchSite(setup).open())

    def search(self, tasks: Iterable[TreeTask], counts: SearchCounts) -> AsyncIterator[SearchResult]:
        """As `Searcher.search`; `max_trees_in_flight` run at a time."""
        setup = self._site.setup
        made: Iterator[SearchTask] = map(self._site.task, tasks)
        return search_trees(
            made, self._site.engines, setup.search, format=FORMATS[setup.prompt_format],
            max_trees_in_flight=setup.max_trees_in_flight, counts=counts, follow=setup.follow,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close the engines."""
        await self._site.aclose()
