"""The report of a run: what the search found, what the policy learned from it, beside the paper's figures.

It reads manifests, evaluation outcomes and a few stored trees; it computes nothing that a stage did not record, but
the paired differences between models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from policy.statistics import ALL_LEVELS, PassRate, paired_difference, pass_rates
from rounds import charts, published
from rounds.artifact import Manifest
from rounds.charts import Series
from rounds.page import Block, Cards, Code, Figure, Heading, Page, Paragraph, Table
from rstar.problems import Problem
from rstar.seeds import rng
from rstar.trajectories import Trajectory, trajectories
from rstar.tree import Tree

LEVELS = ("easy", "medium", "olympiad")
UNSOLVED_SHOWN = 5
Outcomes = Mapping[str, tuple[str, bool]]
"""Problem id to (level, solved)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """What one round left behind."""

    round_index: int
    search: Manifest
    sft_set: Manifest
    policy: Manifest
    evaluation: Manifest
    outcomes: Outcomes
    solved_tree: Tree | None
    """A tree worth looking at: a hard problem with right and wrong answers."""
    unsolved: Sequence[Problem]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a report is made from."""

    name: str
    seed: int
    problems: Manifest
    base_evaluation: Manifest
    base_outcomes: Outcomes
    rounds: Sequence[RoundFacts]
    command: str
    machine: str
    peak_memory_bytes: int | None = None


def report(facts: RunFacts) -> Page:
    """The page of a run, after its last finished round."""
    last = facts.rounds[-1]
    rounds = "round 1" if last.round_index == 1 else f"rounds 1 to {last.round_index}"
    blocks: list[Block] = [
        *_headline(facts),
        *_coverage(facts),
        *_policy(facts),
        *_training_set(facts),
        *_search_health(last),
        *_samples(last),
        *_cost(facts),
        *_lineage(facts),
    ]
    return Page(
        title=f"Self-evolution, {rounds}: {facts.name}",
        subtitle=f"Made by `{facts.command}` on {facts.machine}; seed {facts.seed}.",
        blocks=blocks,
    )


def _headline(facts: RunFacts) -> list[Block]:
    last = facts.rounds[-1]
    base, trained = _rates(facts.base_outcomes), _rates(last.outcomes)
    cards = [
        (
            f"{base[level].rate:.0%} → {trained[level].rate:.0%}",
            f"{level}: greedy pass@1, base → r{last.round_index}",
        )
        for level in _levels(trained)
        if level in base
    ]
    coverage = _coverage_rates(last.search)
    cards.append(
        (f"{coverage[ALL_LEVELS]:.0%}", f"of training problems solved by search in round {last.round_index}")
    )
    text = (
        "A small language model writes solutions step by step as commented Python. Monte-Carlo tree search tries many "
        "steps, runs each in a sandbox, keeps those that run cleanly, and learns from the final answers which steps "
        "lead to right ones. The best verified solutions then train the model again, from the base. "
        "Below: how much search found, and how much better the model became on problems that no round has seen."
    )
    return [Paragraph(text), Cards(cards)]


def _coverage(facts: RunFacts) -> list[Block]:
    levels = _levels(_coverage_rates(facts.rounds[0].search))
    header = ["training problems with a verified solution", *levels]
    rows: list[list[str]] = []
    strong: set[int] = set()
    series: list[Series] = []
    for one in facts.rounds:
        rates = _coverage_rates(one.search)
        strong.add(len(rows))
        rows.append([f"round {one.round_index}, here", *(f"{rates[level]:.1%}" for level in levels)])
        paper = published.COVERAGE[one.round_index]
        rows.append([f"round {one.round_index}, paper", *(_percent(paper.get(level)) for level in levels)])
        series += [
            Series(f"round {one.round_index}, here", [rates[level] for level in levels]),
            Series(f"round {one.round_index}, paper", [paper.get(level) for level in levels]),
        ]
    chart = charts.grouped_shares(levels, series, ylabel="problems solved, %")
    return [
        Heading("What search found"),
        Paragraph(
            "Share of training problems for which at least one trajectory reached the reference answer."
        ),
        Figure(
            "coverage", chart, "Coverage by level, beside the paper's table 2 (other problems, other models)."
        ),
        Table(header, rows, frozenset(strong)),
    ]


def _policy(facts: RunFacts) -> list[Block]:
    models: list[tuple[str, Outcomes]] = [("base", facts.base_outcomes)]
    models += [(f"r{one.round_index}", one.outcomes) for one in facts.rounds]
    rates = [(name, _rates(outcomes)) for name, outcomes in models]
    levels = _levels(rates[-1][1])
    rows = [
        [name, *(_rate_text(by_level[level]) for level in levels), _percent(published.POLICY_MATH[index])]
        for index, (name, by_level) in enumerate(rates)
    ]
    series = [
        Series(
            name,
            [by_level[level].rate for level in levels],
            [(by_level[level].interval.low, by_level[level].interval.high) for level in levels],
        )
        for name, by_level in rates
    ]
    count = facts.base_evaluation.summary["problems"]
    return [
        Heading("What the policy learned"),
        Paragraph(
            f"The policy alone, greedy, one attempt, on {count} held-out problems that share no question with any "
            "training problem. Intervals are 95 %."
        ),
        Figure(
            "policy",
            charts.grouped_shares(levels, series, ylabel="pass@1, %"),
            "Greedy pass@1 on held-out problems.",
        ),
        Table(["pass@1", *levels, "paper, MATH"], rows, frozenset({len(rows) - 1})),
        *_gains(facts, levels),
    ]


def _gains(facts: RunFacts, levels: Sequence[str]) -> list[Block]:
    last = facts.rounds[-1]
    rows = []
    for level in levels:
        shared = [
            problem_id
            for problem_id, (own, _) in facts.base_outcomes.items()
            if problem_id in last.outcomes and level in (own, ALL_LEVELS)
        ]
        if not shared:
            continue
        gain = paired_difference(
            [float(facts.base_outcomes[problem_id][1]) for problem_id in shared],
            [float(last.outcomes[problem_id][1]) for problem_id in shared],
            seed=facts.seed,
        )
        verdict = "yes" if gain.significant else "no"
        interval = f"{100 * gain.interval.low:+.1f} to {100 * gain.interval.high:+.1f}"
        rows.append([level, f"{100 * gain.difference:+.1f}", interval, verdict])
    name = f"r{last.round_index} over base"
    return [Table([name, "points", "95 % interval (paired bootstrap)", "interval excludes 0"], rows)]


def _training_set(facts: RunFacts) -> list[Block]:
    rows = []
    for one in facts.rounds:
        made, trained = one.sft_set.summary, one.policy.summary
        rows.append([
            f"r{one.round_index}", f"{made['examples']:,}", f"{made['policy_tokens']:,}", f"{trained['steps']:,}",
            f"{trained['first_loss']:.3f} → {trained['final_loss']:.3f}", f"{one.policy.seconds:.0f} s",
        ])  # fmt: skip
    last = facts.rounds[-1]
    losses = last.policy.summary["losses"]
    interval = last.policy.summary["logging_steps"]
    steps = [interval * (i + 1) for i in range(len(losses))]
    dropped = last.sft_set.summary["dropped"]
    reasons = (
        ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(dropped.items()))
        or "nothing"
    )
    return [
        Heading("What it was trained on"),
        Paragraph(
            "Per problem the verified trajectories with the highest mean Q-value, from the base model each round; the loss "
            f"is over the policy's own tokens only. Left out in the last round: {reasons}."
        ),
        Table(["policy", "examples", "policy tokens", "steps", "loss", "time"], rows),
        Figure("loss", charts.loss_curve(steps, losses), f"Training loss of r{last.round_index}."),
    ]


def _search_health(last: RoundFacts) -> list[Block]:
    s = last.search.summary
    expansions = max(1, s["expansions"])
    branching = sum(int(width) * count for width, count in s["branching"].items()) / expansions
    answers = max(1, s["answers_right"] + s["answers_wrong"])
    depth = sum(int(d) * count for d, count in s["depths"].items()) / max(1, sum(s["depths"].values()))
    clean = s["verdicts"].get("ok", 0) / max(1, sum(s["verdicts"].values()))
    facts = [
        ["trees (exhausted before their last rollout)", f"{s['trees']:,} ({s['exhausted']:,})"],
        ["rollouts", f"{s['rollouts']:,}"],
        ["nodes", f"{s['nodes']:,}"],
        ["candidates equal to a sibling, merged", f"{s['merged']:,}"],
        ["live children of an expanded node, mean", f"{branching:.2f}"],
        ["depth of answers, mean", f"{depth:.1f}"],
        ["answers that are right", f"{s['answers_right'] / answers:.1%}"],
        ["steps that run cleanly", f"{clean:.1%}"],
    ]
    return [
        Heading(f"How the search went, round {last.round_index}"),
        Table(["", "round " + str(last.round_index)], facts),
        Figure("terminals", charts.counts(s["terminals"], xlabel="terminal nodes"), "Why paths ended."),
        Figure(
            "verdicts",
            charts.counts(s["verdicts"], xlabel="distinct steps"),
            "How the steps' programs ended.",
        ),
    ]


def _samples(last: RoundFacts) -> list[Block]:
    blocks: list[Block] = [Heading("A tree to look at")]
    if (tree := last.solved_tree) is not None:
        best = _best(tree)
        blocks += [
            Paragraph(tree.question),
            Figure(
                "tree",
                charts.tree_drawing(tree, best.node_ids),
                f"{tree.name}: {tree.num_rollouts} rollouts. Green to red: Q-value; squares: answers; crosses: steps that "
                "failed to run; diamonds: other ends; dark line: the verified trajectory with the highest mean Q.",
            ),
            Code(best.text),
        ]
    else:
        blocks.append(Paragraph("No problem was solved."))
    if last.unsolved:
        blocks += [
            Heading("Unsolved problems, for a person to check", 3),
            Paragraph(
                "A random few without a verified solution. In the paper 19 of 20 such problems had a wrong reference answer; "
                "here references are computed, so they are simply hard.",
                note=True,
            ),
            Table(
                ["question", "level", "reference"],
                [[problem.question, problem.level, problem.answer] for problem in last.unsolved],
            ),
        ]
    return blocks


def _cost(facts: RunFacts) -> list[Block]:
    stages: list[tuple[str, Manifest]] = [("base evaluation", facts.base_evaluation)]
    for one in facts.rounds:
        stages += [
            (f"round {one.round_index} search", one.search),
            (f"round {one.round_index} training", one.policy),
            (f"round {one.round_index} evaluation", one.evaluation),
        ]
    rows = []
    for name, manifest in stages:
        tokens = manifest.summary.get("tokens")
        rate = f"{tokens / manifest.seconds:,.0f}" if tokens and manifest.seconds else "–"
        joules = manifest.summary.get("joules")
        rows.append([
            name, f"{manifest.seconds:,.0f} s", f"{tokens:,}" if tokens else "–", rate,
            "not readable" if joules is None else f"{joules:,.0f}",
        ])  # fmt: skip
    total = sum(manifest.seconds for _, manifest in stages)
    memory = f" Peak memory {facts.peak_memory_bytes / 2**30:.1f} GiB." if facts.peak_memory_bytes else ""
    return [
        Heading("What it cost"),
        Paragraph(f"{total:,.0f} seconds in all.{memory}"),
        Table(["stage", "time", "tokens", "tokens/s", "joules"], rows),
    ]


def _lineage(facts: RunFacts) -> list[Block]:
    last = facts.rounds[-1]
    manifests = [facts.problems, last.search, last.sft_set, last.policy, last.evaluation]
    rows = [
        [
            m.stage,
            m.fingerprint,
            str(m.seed),
            ", ".join(f"{k} {v[:8]}" for k, v in sorted(m.inputs.items())) or "–",
        ]
        for m in manifests
    ]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(last.policy.versions.items()))
    return [
        Heading("Where it came from"),
        Table(["stage", "fingerprint", "seed", "inputs"], rows),
        Paragraph(versions, note=True),
    ]


def choose_tree(trees: Sequence[Tree]) -> Tree | None:
    """A solved tree that shows the most: right and wrong answers, then many nodes."""
    solved = [tree for tree in trees if tree.solved]
    if not solved:
        return None
    return max(
        solved,
        key=lambda tree: (any(t.verified is False for t in trajectories(tree)), len(tree.nodes), tree.name),
    )


def choose_unsolved(problems: Sequence[Problem], solved_ids: set[str], seed: int) -> list[Problem]:
    """A random few of the problems that have no verified solution."""
    unsolved = sorted((p for p in problems if p.id not in solved_ids), key=lambda p: p.id)
    chance = rng(seed, "report", "unsolved")
    return chance.sample(unsolved, min(UNSOLVED_SHOWN, len(unsolved)))


def _best(tree: Tree) -> Trajectory:
    return max((t for t in trajectories(tree) if t.verified), key=lambda t: t.mean_q)


def _rates(outcomes: Outcomes) -> dict[str, PassRate]:
    return {rate.level: rate for rate in pass_rates(outcomes.values(), levels=LEVELS)}


def _coverage_rates(search: Manifest) -> dict[str, float]:
    """Level to share of problems solved, `all` last."""
    coverage: dict[str, dict[str, int]] = search.summary["coverage"]
    rates = {level: c["solved"] / c["problems"] for level, c in coverage.items()}
    rates = {level: rates[level] for level in _levels(rates)}
    solved, problems = (sum(c[key] for c in coverage.values()) for key in ("solved", "problems"))
    return {**rates, ALL_LEVELS: solved / problems}


def _levels(by_level: Mapping[str, object]) -> list[str]:
    """Known levels in order, then others by name, `all` last."""
    known = [level for level in LEVELS if level in by_level]
    others = sorted(level for level in by_level if level not in (*LEVELS, ALL_LEVELS))
    return [*known, *others, *([ALL_LEVELS] if ALL_LEVELS in by_level else [])]


def _rate_text(rate: PassRate) -> str:
    low, high = 100 * rate.interval.low, 100 * rate.interval.high
    return f"{100 * rate.rate:.1f} % ({low:.0f}–{high:.0f})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
