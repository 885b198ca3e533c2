"""One worker of a cluster: engines and sandboxes in a process that Ray started on some node, and trees searched there.

An asynchronous actor: its methods are coroutines on one event loop, so a worker searches many trees at once and answers
questions meanwhile. What this file does not cover: which trees (`queue`), and what becomes of them (`searcher`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from rstar.errors import ConfigError
from rstar.evaluation import SearchCounts
from rstar.search import SearchResult
from rstar.searcher import SearchSetup, SearchSite, TreeTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A tree that has ended at a worker, and what the worker has counted since its last reply."""

    result: SearchResult
    counted: SearchCounts


class SearchWorker:
    """Engines on one node. Ray makes an actor of it; nothing in it needs Ray."""

    def __init__(self, setup: SearchSetup, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)  # before anything reads it: engines are imported when they are opened
        self._site = SearchSite(setup)
        self._counts = SearchCounts()

    async def open(self) -> list[str]:
        """Start the engines; returns what they warned of. Raises what they raise, and ConfigError for a folder that this
        machine does not have."""
        model = self._site.setup.model
        if not model.exists():
            raise ConfigError(
                f"there is no {model} on this machine; models must lie in a folder that all machines of the cluster share, "
                "under the same path"
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            await self._site.open()
        return [str(one.message) for one in caught if one.category is RuntimeWarning]

    async def search(self, task: TreeTask) -> Reply:
        """Search one tree to its end; several calls run at once."""
        result = await self._site.search_one(task, self._counts)
        return Reply(result=result, counted=self._counts.take())

    async def counted(self) -> SearchCounts:
        """What has been done since the last reply."""
        return self._counts.take()

    async def aclose(self) -> None:
        """Close the engines."""
        await self._site.aclose()
