"""Where the stages of a run do their work: this machine, or a cluster. Decides no result, so it is no part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rstar.searcher import LocalSearcher, OpenSearcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What stages are given beside recipe and folders."""

    open_searcher: OpenSearcher = LocalSearcher.open


HERE = Workplace()
"""This machine."""


def on_ray(address: str) -> Workplace:
    """The Ray cluster at an address: HOST:PORT of its head, `auto`, or `local` to start one here. Nothing is connected yet."""
    from rstar.cluster import ClusterSearcher

    return Workplace(open_searcher=partial(ClusterSearcher.open, address))
