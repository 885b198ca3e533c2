"""A scripted search on a cluster, in a process of its own: `python -m tests.rstar.cluster.run_search ADDRESS FOLDER`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from rstar.cluster import ClusterSearcher
from rstar.store import Store
from tests.rstar.cluster.scripted import WORLD, Script, search_into

PROBLEMS = WORLD.problems(60)
LATENCY_S = 0.3

if __name__ == "__main__":
    address, folder = sys.argv[1], Path(sys.argv[2])
    faults = search_into(
        Store.create(folder / "store"),
        Script(folder=folder, latency_s=LATENCY_S),
        partial(ClusterSearcher.open, address),
        problems=PROBLEMS,
        progress_file=folder / "progress.json",
    )
    assert not faults, faults
