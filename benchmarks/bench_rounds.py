"""What the rounds of a recipe take on this machine, and what comes of them, over several seeds.

    python -m benchmarks.bench_rounds                                                  # round 1, seed 0
    python -m benchmarks.bench_rounds --rounds 4 --seeds 0 1 2 --folder runs/bench     # every round, three seeds

Each seed is one run of `rstar round N` (with `--recipe` and every `--set KEY=VALUE`) in a process of its own, in the
folder seedS below --folder (default: a temporary one). A run that has its report of round N there is read, as it was
made, and not run again. Seconds are those of the manifests; wall time, CPU time and peak memory of the whole process
tree (`watch`) are kept beside the run as seedS.cost.json, for a run that was watched from its start to its end.

Prints Markdown: cost; coverage; greedy policy; full system; preference model. After the recipe's last round also the full
system against the policy's greedy answer, majority vote and best-of-N at equal tokens, and what there is of ablations,
pooled over seeds (`pooled`). Other figures are mean and range over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pooled import equal_token_tables, policy_ablation_table, value_ablation_table
from benchmarks.runs import BEFORE, SCALING, WHOLE, Run, finished_run
from benchmarks.tables import markdown, spread
from policy.statistics import ALL_LEVELS, pass_rates
from rounds.artifact import STORE
from rounds.evaluation import LEVELS
from rounds.health import coverage
from rounds.machine import describe_machine
from rounds.searching import outcomes
from rstar.errors import RstarError
from rstar.selection import Method

SEARCH = ("search",)
TRAINING = ("sft_set", "policy", "pairs", "ppm")
EVALUATION = ("evaluation", "system", "ppm_evaluation")
PARTS = (SEARCH, TRAINING, EVALUATION)
SYSTEM_METHODS = (Method.BEST, Method.TOP_VOTE, Method.MAJORITY, Method.PASS)


def main() -> None:
    """Run what is not there, and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1, help="the last round to run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipe", default="embedded")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        try:
            runs = [
                finished_run(folder / f"seed{seed}", seed, options.rounds, options.recipe, options.settings)
                for seed in options.seeds
            ]
        except RstarError as error:
            parser.exit(1, f"error: {error}\n")
        print(f"Machine: {describe_machine()}\n")
        for table in filter(None, tables(runs)):
            print(table)


def tables(runs: Sequence[Run]) -> Iterator[str]:
    """All tables that the runs have figures for."""
    yield cost_table(runs)
    yield coverage_table(runs)
    yield policy_table(runs)
    yield system_table(runs, "system", "Full system: policy rK searching with PPM rK")
    yield system_table(runs, "ppm_evaluation", "PPM rK with the policy of round 1")
    yield ppm_table(runs)
    yield from equal_token_tables(runs)
    yield policy_ablation_table(runs)
    yield value_ablation_table(runs)


def cost_table(runs: Sequence[Run]) -> str:
    """Seconds by part of each run, its CPU time and peak memory."""
    header = ["seed", "part", "wall", "search", "training", "evaluation", "CPU, children included", "peak memory"]  # fmt: skip
    return markdown("Cost", header, [[str(run.seed), *row] for run in runs for row in cost_rows(run)])


def cost_rows(run: Run) -> Iterator[list[str]]:
    """A row per part. Wall time of a part is that of its stages; of the whole run, that of the process."""

    def measured(part: str) -> list[str]:
        found = run.cost.get(part)
        return [_seconds(found["cpu_s"]), f"{found['peak_bytes'] / 2**30:.2f} GiB"] if found else ["–", "–"]

    before = _seconds(run.seconds("problems", "base/evaluation"))
    yield [BEFORE, before, "–", "–", before, *measured(BEFORE)]
    for index in run.rounds:
        here = f"round{index}"
        parts = [run.seconds(*(f"{here}/{stage}" for stage in part)) for part in PARTS]
        wall_s = sum(parts) + run.seconds(f"{here}/report")
        yield [f"round {index}", *map(_seconds, (wall_s, *parts)), *measured(here)]
    if run.scaling is not None:
        scaling = _seconds(run.seconds(run.scaling))
        yield [SCALING, scaling, "–", "–", scaling, *measured(SCALING)]
    whole = run.cost.get(WHOLE)
    yield [WHOLE, _seconds(whole["wall_s"]) if whole else "–", "–", "–", "–", *measured(WHOLE)]


def coverage_table(runs: Sequence[Run]) -> str:
    """Share of training problems with a verified answer, by round and level."""
    first = runs[0].summary("round1/search")["coverage"]
    levels = [*_by_level(first)]
    rows = []
    for index in runs[0].rounds:
        summaries = [run.summary(f"round{index}/search") for run in runs]
        shares = [
            [one["coverage"][level]["solved"] / one["coverage"][level]["problems"] for one in summaries]
            for level in levels
        ]
        rows.append([f"round {index}", *map(spread, [*shares, [*map(coverage, summaries)]])])
    named = [f"{level} ({first[level]['problems']})" for level in levels]
    return markdown("Coverage of training problems", ["", *named, ALL_LEVELS], rows)


def policy_table(runs: Sequence[Run]) -> str:
    """Greedy pass@1 on held-out problems, from the base to the last round."""
    stages = {"base": "base/evaluation"} | {f"r{i}": f"round{i}/evaluation" for i in runs[0].rounds}
    rates = {
        name: [
            {rate.level: rate for rate in pass_rates(outcomes(run.folder / stage / STORE).values(), levels=LEVELS)}
            for run in runs
        ]
        for name, stage in stages.items()
    }  # fmt: skip
    known = rates["base"][0]
    rows = [
        [name, *(spread([one[level].rate for one in of_runs]) for level in known)]
        for name, of_runs in rates.items()
    ]
    named = [f"{level} ({rate.num_problems})" for level, rate in known.items()]
    return markdown("Greedy policy, pass@1 on held-out problems", ["", *named], rows)


def system_table(runs: Sequence[Run], stage: str, title: str) -> str:
    """Accuracy of an evaluation by search, by round, selection and level; empty if no round has one."""
    rows = []
    header: list[str] = []
    for index in runs[0].rounds:
        if runs[0].manifest(f"round{index}/{stage}") is None:
            continue
        summaries = [run.summary(f"round{index}/{stage}") for run in runs]
        counts = _by_level(summaries[0]["problems"])
        trees = summaries[0]["trees_per_problem"]
        header = ["", "answer", *(f"{level} ({count})" for level, count in counts.items())]
        rows += [
            [
                f"round {index}, {trees} {'tree' if trees == 1 else 'trees'} per problem",
                f"{method}",
                *(spread([one["accuracy"][level][method]["accuracy"] for one in summaries]) for level in counts),
            ]
            for method in SYSTEM_METHODS
        ]  # fmt: skip
    return markdown(title, header, rows)


def ppm_table(runs: Sequence[Run]) -> str:
    """Held-out pair accuracy by round: of all pairs, by kind, and of step pairs by depth."""
    summaries = {index: [run.summary(f"round{index}/ppm") for run in runs] for index in runs[0].rounds}
    everything = [one for of_round in summaries.values() for one in of_round]
    kinds = sorted({kind for one in everything for kind in one["accuracy_by_kind"]}, reverse=True)
    depths = sorted({depth for one in everything for depth in one["accuracy_by_depth"]}, key=int)
    rows = [
        [
            f"PPM r{index}",
            f"{sum(one['pairs'] for one in of_round) // len(runs):,}",
            f"{sum(one['held_out_pairs'] for one in of_round):,}",
            spread([one["accuracy"] for one in of_round]),
            *(_known(of_round, "accuracy_by_kind", kind) for kind in kinds),
            *(_known(of_round, "accuracy_by_depth", depth) for depth in depths),
        ]
        for index, of_round in summaries.items()
    ]
    header = ["", "pairs trained on, mean", "held out, all seeds", "accuracy", *kinds, *(f"depth {d}" for d in depths)]  # fmt: skip
    return markdown("Preference model, pairs of held-out problems in the right order", header, rows)


def _known(summaries: Sequence[Mapping[str, Any]], table: str, key: str) -> str:
    return spread([one[table][key] for one in summaries if key in one[table]])


def _by_level(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the order of the levels: the curriculum's, then others by name, `ALL_LEVELS` last."""
    others = sorted(values.keys() - {*LEVELS, ALL_LEVELS})
    return {level: values[level] for level in (*LEVELS, *others, ALL_LEVELS) if level in values}


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s"


if __name__ == "__main__":
    main()
