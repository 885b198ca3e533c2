"""One grader for all the tests here: its workers take a second to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rstar.grading import Grader, GraderConfig


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    """One grader for all tests that do not kill its worker."""
    with Grader(GraderConfig(num_workers=1)) as grader:
        yield grader
