"""Read a store of trees with DuckDB and pandas, and see which ideas fail most.

    python -m examples.failures                                          # searches a few problems first
    python -m examples.failures runs/embedded/round1/search/store        # a store of a run
    python -m examples.failures STORE --plot failures.png

Shows: that a store is Parquet files which any program reads as they are; the columns of trees and nodes; how the rows are
joined with what the embedded curriculum knows of its problems (the ideas that each is made of), and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import duckdb
import pandas
from matplotlib import pyplot

from rounds.curriculum import Level, Split, generate, generate_exercises
from rstar.campaign import search_into_store
from rstar.config import SearchConfig
from rstar.engines import EngineConfig
from rstar.grading import GraderConfig
from rstar.protocols import SamplingConfig
from rstar.sandbox import SandboxConfig
from rstar.store import Store

NEWEST = """
    SELECT problem_id, level, outcome, num_tokens FROM read_parquet('{store}/trees/*/*.parquet', hive_partitioning = true)
    QUALIFY row_number() OVER (PARTITION BY round, problem_id, tree_index ORDER BY version DESC) = 1
"""
"""Of a tree that was searched further the store has every version; the newest counts."""
FAILED_STEPS = """
    SELECT regexp_extract(error, '^\\w+') AS error, count(*) AS steps
    FROM read_parquet('{store}/nodes/*/*.parquet') WHERE execution <> 'ok' GROUP BY 1 ORDER BY steps DESC, error LIMIT 5
"""


def main() -> None:
    """Search if there is nothing to read, then count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path, nargs="?", help="folder of a store; none: search a few problems")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the ideas, as PNG, SVG or PDF")
    arguments = parser.parse_args()
    if arguments.store is not None:
        report(arguments.store, arguments.plot)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report(searched(Path(folder) / "trees"), arguments.plot)


def searched(store: Path) -> Path:
    """A new store with trees of a few medium problems by the embedded model."""
    asyncio.run(
        search_into_store(
            generate(Split.TRAIN, Level.MEDIUM, 8, seed=0), model=Path("rounds/base"), store=Store.create(store),
            round_index=1, label="search", prompt_format="bare", seed=0,
            search=SearchConfig(num_rollouts=2, num_candidates=4, sampling=SamplingConfig(max_step_tokens=96)),
            sandbox=SandboxConfig(), grading=GraderConfig(), engine=EngineConfig(num_replicas=0),
        )
    )  # fmt: skip
    return store


def report(store: Path, plot: Path | None) -> None:
    """Print what failed; draw it if there is a file for it."""
    trees = duckdb.execute(NEWEST.format(store=store)).df()
    print(f"{len(trees)} trees, {(trees.outcome == 'solved').mean():.0%} solved\n")
    print(duckdb.execute(FAILED_STEPS.format(store=store)).df().to_string(index=False), "\n")
    ideas = by_idea(trees)
    print(ideas.head(10).to_string())
    if plot is not None:
        ideas.head(10).unsolved.plot.barh(xlabel="share of problems not solved", ylabel="")
        pyplot.savefig(plot, bbox_inches="tight")
        print(f"\n{plot}")


def by_idea(trees: pandas.DataFrame) -> pandas.DataFrame:
    """Per idea of the curriculum: how many searched problems hold it, and which share was not solved; the worst first."""
    exercises = [
        exercise for level in trees.level.unique()
        for exercise in generate_exercises(Split.TRAIN, level, 1 + last_place(trees, level), seed=0)
    ]  # fmt: skip
    held = pandas.DataFrame(
        [(exercise.problem.id, idea.name) for exercise in exercises for idea in exercise.ideas],
        columns=["problem_id", "idea"],
    )
    joined = held.merge(trees, on="problem_id")
    grouped = joined.assign(unsolved=joined.outcome != "solved").groupby("idea")
    counted = grouped.agg(problems=("problem_id", "nunique"), unsolved=("unsolved", "mean"))
    return counted.sort_values(["unsolved", "problems"], ascending=False)


def last_place(trees: pandas.DataFrame, level: str) -> int:
    """The largest place in the curriculum of a problem of this level: its id is SPLIT-LEVEL-SEED-PLACE."""
    return int(trees.problem_id[trees.level == level].str.rsplit("-", n=1).str[1].astype(int).max())


if __name__ == "__main__":
    main()
