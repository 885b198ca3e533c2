"""What searches that share a sandbox keep to themselves."""

from __future__ import annotations

import asyncio

from rstar.engine_room import OwnStates
from rstar.protocols import RunRequest
from tests.rstar.fakes import InProcessSandbox


def test_searches_with_equal_names_neither_share_nor_release_each_others_states() -> None:
    shared = InProcessSandbox()
    first, second = OwnStates(shared, "0"), OwnStates(shared, "1")
    for one in (first, second):
        asyncio.run(one.run(RunRequest(code="x = 1", group="question#0")))
    first.release("question#0")
    groups = [request.group for request in shared.requests]
    assert len(set(groups)) == 2
    assert shared.released == groups[:1]
