"""The program that `test_durability` kills: appends trees for ever, says which are stored.

    python -m tests.rstar.store.killed_writer FOLDER

Trees p0, p1, … of round 1, from the first that is not stored; small parts, so that kills hit their writing too.
Prints a tree's number once `append` has returned.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import rstar.store.writer
from benchmarks.forest import grow_tree
from rstar.store import Store
from rstar.tree import Tree


def tree_number(number: int) -> Tree:
    return grow_tree(f"p{number}", 11, num_rollouts=2, num_candidates=3)


def missing_numbers(stored: set[tuple[str, int]]) -> Iterator[int]:
    return (number for number in itertools.count() if (f"p{number}", 0) not in stored)


def main() -> None:
    rstar.store.writer.FLUSH_TREES = 7
    store = Store.create(sys.argv[1])
    with store.writer(round=1, settings={"who": "killed"}) as writer:
        for number in missing_numbers(store.keys(1)):
            writer.append(tree_number(number))
            print(number, flush=True)


if __name__ == "__main__":
    main()
