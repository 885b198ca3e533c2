"""No waiting for the disk: a killed process loses nothing that it wrote, synced or not; only a power cut does.

That the store asks for it in the right order has its own test, in `test_durability`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
