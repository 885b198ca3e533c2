"""What a running search says of itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rstar.evaluation import SearchCounts
from rstar.progress import SearchProgress
from rstar.search import SearchResult
from tests.rstar.trees import grow


@pytest.mark.parametrize("verifies", [True, False])
def test_coverage_is_shown_where_answers_are_verified_and_nothing_of_it_elsewhere(
    tmp_path: Path, verifies: bool
) -> None:
    shown, file = io.StringIO(), tmp_path / "progress.json"
    trees = [grow(seed=seed) for seed in range(4)]
    progress = SearchProgress(
        "label",
        len(trees),
        SearchCounts(),
        verifies=verifies,
        file=file,
        console=Console(file=shown, width=200),
    )
    with progress:
        for tree in trees:
            progress.add(SearchResult(tree=tree, seconds=0.1), "easy")
    numbers = json.loads(file.read_text())
    solved = sum(tree.solved for tree in trees)
    assert numbers["trees_done"] == 4
    assert numbers["coverage"] == (solved / 4 if verifies else None)
    assert numbers["coverage_by_level"] == ({"easy": solved / 4} if verifies else {})
    assert f"4/4 trees, {solved / 4:.1%} solved, 0 nodes" in shown.getvalue() or not verifies
    assert ("solved" in shown.getvalue()) == verifies
