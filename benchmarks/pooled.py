"""Comparisons over the held-out problems of several runs at once: the full system against samples, and ablations.

Intervals are a bootstrap over the problems of all seeds: they say how other problems would differ, not other trainings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.runs import Run
from benchmarks.tables import interval, markdown, spread
from policy.attempts import ATTEMPTS, Attempt, by_problem, read_attempts
from policy.evaluate import Comparison, Evaluation, Point, at_equal_tokens, doublings
from policy.statistics import ALL_LEVELS, PairedDifference, paired_difference, pass_rates
from rounds.ablation_stages import FOLDER
from rounds.ablations import METHOD
from rounds.artifact import STORE
from rounds.evaluation import LEVELS, VALUE_MODELS, samples_file
from rounds.searching import outcomes
from rstar.selection import Method
from rstar.store import Outcome, Store

COMPARED = (Method.BEST, Method.TOP_VOTE)
"""How the full system selects where it is compared: the paper's rule, and that of its released code."""
POLICIES = {"random": "random correct trajectories", "rejection": "rejection sampling"}
"""Folders of policies trained on something else, and what that is."""


def equal_token_tables(runs: Sequence[Run]) -> Iterator[str]:
    """Per selection: the full system at 1, 2, 4, ... trees, by level; each baseline at its tokens, or fewer where it has no
    more samples (*), and the full system's lead over it in points."""
    if None in [run.scaling for run in runs]:
        return
    searches = pooled(runs, scaling_attempts)
    baselines = {"greedy": (pooled(runs, greedy_attempts), Method.PASS)}
    for name in VALUE_MODELS:
        if (samples := scored_samples(runs, name)) is not None:
            baselines.setdefault("majority vote", (samples, Method.MAJORITY))
            baselines[f"best-of-N, {name}"] = (samples, Method.BEST)
    for method in COMPARED:
        rows = []
        for level, ids in searches.levels(LEVELS).items():
            for num_trees in doublings(searches.num_trees):
                point = searches.point(ids, method, num_trees)
                row = [f"{level} ({len(ids)})", str(num_trees), f"{point.tokens:,.0f}", _point(point)]
                for baseline, selection in baselines.values():
                    compared = at_equal_tokens(
                        searches, baseline, ids, methods=(method, selection), num_trees=num_trees, seed=0
                    )
                    row.append(_compared(compared))
                rows.append(row)
        header = ["level (problems)", "trees", "tokens per problem", f"full system, {method}", *baselines]
        yield markdown(
            f"Full system ({method}) and the policy's samples at equal tokens, {len(runs)} seeds pooled; *: has no more samples",
            header, rows,
        )  # fmt: skip


def pooled(runs: Sequence[Run], read: Callable[[Run], Sequence[Attempt]]) -> Evaluation:
    """The attempts of all runs as those of one set of problems."""
    attempts = (
        dataclasses.replace(one, problem_id=f"seed{run.seed}/{one.problem_id}")
        for run in runs
        for one in read(run)
    )
    return Evaluation(by_problem(attempts), seed=0)


def greedy_attempts(run: Run) -> list[Attempt]:
    """The last policy's greedy trees of the problems that `scaling` has: a right answer each, or none."""
    evaluated = {one.problem_id for one in scaling_attempts(run)}
    attempts = []
    for record in Store(run.folder / f"round{run.last_round}/evaluation" / STORE).records():
        if record.problem_id in evaluated:
            attempt = Attempt(
                problem_id=record.problem_id, level=record.level, tree_index=0, tokens=record.num_tokens
            )
            if record.outcome is Outcome.SOLVED:
                attempt = dataclasses.replace(attempt, node_id=1, answer="", multiplicity=1, verified=True)
            attempts.append(attempt)
    return attempts


def scaling_attempts(run: Run) -> list[Attempt]:
    return read_attempts(run.folder / (run.scaling or "") / ATTEMPTS)


def scored_samples(runs: Sequence[Run], value_model: str) -> Evaluation | None:
    """The samples of `scaling`, scored by a value model there or among the ablations; None unless all runs have them."""
    found: dict[int, list[Attempt]] = {}
    for run in runs:
        stages = [run.scaling or ""]
        if ablated(run, "scaling", "policy", "policy"):
            stages.append(f"{FOLDER}/scaling")
        for stage in stages:
            path = run.folder / stage / samples_file(value_model)
            if run.seed not in found and path.is_file():
                found[run.seed] = read_attempts(path)
    return pooled(runs, lambda run: found[run.seed]) if len(found) == len(runs) else None


def ablated(run: Run, stage: str, name: str, own: str) -> bool:
    """There is this ablation, and it is of the last round: its input `name` is that round's stage `own`."""
    made, replaced = run.manifest(f"{FOLDER}/{stage}"), run.manifest(f"round{run.last_round}/{own}")
    return made is not None and replaced is not None and made.inputs[name] == replaced.fingerprint


def policy_ablation_table(runs: Sequence[Run]) -> str:
    """The last greedy policy against those trained on other verified solutions (the paper's table 7)."""
    if not all(ablated(run, "policies", METHOD, "evaluation") for run in runs):
        return ""
    names = {"top mean Q": f"round{runs[0].last_round}/evaluation"}
    names |= {what: f"{FOLDER}/{name}/evaluation" for name, what in POLICIES.items()}
    found = {name: [outcomes(run.folder / stage / STORE) for run in runs] for name, stage in names.items()}
    own = found["top mean Q"]

    def solved(by_run: Sequence[Mapping[str, tuple[str, bool]]], level: str) -> list[float]:
        """1 or 0 for each problem of each run, in the order of the method's own evaluations."""
        return [
            float(one[problem_id][1])
            for one, first in zip(by_run, own, strict=True)
            for problem_id, (of, _) in first.items()
            if level in (of, ALL_LEVELS)
        ]

    rows = []
    for name, by_run in found.items():
        rates = [{rate.level: rate.rate for rate in pass_rates(one.values(), levels=LEVELS)} for one in by_run]  # fmt: skip
        row = [name]
        for level in rates[0]:
            lead = paired_difference(solved(by_run, level), solved(own, level), seed=0)
            shares = spread([rate[level] for rate in rates])
            row.append(shares if by_run is own else f"{shares}, {_difference(lead)}")
        rows.append(row)
    header = ["trained on", *rates[0]]
    return markdown(
        "Policy by what it was trained on: greedy pass@1, and the lead of the first (95 % interval)",
        header,
        rows,
    )


def value_ablation_table(runs: Sequence[Run]) -> str:
    """PPM against PQM in the same search, and either against an ORM over samples for as many tokens (table 8)."""
    orm = scored_samples(runs, "orm")
    if orm is None or not all(ablated(run, "scaling", "system", "system") for run in runs):
        return ""
    ppm = pooled(runs, lambda run: read_attempts(run.folder / f"round{run.last_round}/system" / ATTEMPTS))
    pqm = pooled(runs, lambda run: read_attempts(run.folder / FOLDER / "pqm/system" / ATTEMPTS))
    rows = []
    for level, ids in ppm.levels(LEVELS).items():
        points = [one.point(ids, Method.BEST, one.num_trees) for one in (ppm, pqm)]
        right = [[one.outcome(i, Method.BEST, one.num_trees) for i in ids] for one in (pqm, ppm)]
        over_orm = [
            at_equal_tokens(
                one, orm, ids, methods=(Method.BEST, Method.BEST), num_trees=one.num_trees, seed=0
            )
            for one in (ppm, pqm)
        ]
        rows.append([
            f"{level} ({len(ids)})", *map(_point, points), _difference(paired_difference(*right, seed=0)),
            *map(_compared, over_orm),
        ])  # fmt: skip
    header = [
        "level (problems)", "search with PPM", "search with PQM", "PPM - PQM", "ORM over samples, PPM's lead",
        "ORM over samples, PQM's lead",
    ]  # fmt: skip
    return markdown(
        f"Value models, answer of the best-scored trajectory, {ppm.num_trees} trees per problem", header, rows
    )


def _point(point: Point) -> str:
    return f"{100 * point.accuracy:.1f} % ({interval(point.interval.low, point.interval.high)})"


def _compared(found: Comparison) -> str:
    mark = "*" if found.exhausted else ""
    return f"{100 * found.baseline.accuracy:.1f} %{mark}, {_difference(found.difference)}"


def _difference(found: PairedDifference) -> str:
    return f"{100 * found.difference:+.1f} ({interval(found.interval.low, found.interval.high)})"
