"""Rows as other trainers read them: of TRL's SFT, reward and DPO trainers, and of verl.

They are drawn from a store's trees as a round draws its own training sets, or are the rows that a round has drawn. Text
only: the other trainer has the tokenizer, and with it all limits on length.

What gets lost on the way: the policy's own token ids, and which tokens are the policy's. TRL learns from the whole
completion, program output included; `rstar round` does not.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from policy.config import SFTSetConfig
from policy.sft_sets import sft_set
from ppm.config import PairConfig
from ppm.pairs import pair_set
from rstar.config import SearchConfig
from rstar.errors import StoreError
from rstar.problems import Problem
from rstar.prompts import PromptFormat
from rstar.steps import CODE
from rstar.store import Kind, Outcome, Store

if TYPE_CHECKING:
    from rstar.tree import Tree

Row = dict[str, Any]

NO_LIMIT = 1 << 40
ABILITY = "math"
SOURCE = "rstar"
"""verl's `data_source` of a problem without a source."""


def sft_rows(
    store: Store, round: int, format: PromptFormat, config: SFTSetConfig | None, *, seed: int
) -> list[Row]:
    """One row per example. With `config` they are drawn from the trees, without it they are the store's `sft` rows."""
    if config is None:
        stored = store.table(Kind.SFT, round).select(["problem_id", "text", "mean_q"]).to_pylist()
        return [_sft_row(**row) for row in stored]
    records = {(r.problem_id, r.tree_index): r for r in store.records(round) if r.outcome is Outcome.SOLVED}
    trees = list(store.trees(round, problem_ids={problem_id for problem_id, _ in records}))
    problems = {}
    for tree in trees:
        record = records.get((tree.problem_id, tree.tree_index))
        if record is not None:
            problems[tree.problem_id] = Problem(
                id=tree.problem_id,
                question=tree.question,
                answer="",
                level=record.level,
                source=record.source,
            )
    # The text is all that counts: one token stands for any piece of it.
    made = sft_set(
        trees, problems.values(), config=dataclasses.replace(config, max_tokens=NO_LIMIT, retokenize=True),
        format=format, encode=lambda _: (0,), max_output_chars=_max_output_chars(store, round), seed=seed,
    )  # fmt: skip
    return [_sft_row(example.problem_id, example.text, example.mean_q) for example in made.examples]


def _sft_row(problem_id: str, text: str, mean_q: float | None) -> Row:
    # No step and no output may hold an opening tag, so the last one is where the prompt ends.
    prompt, opening, completion = text.rpartition(f"{CODE}\n")
    if not opening:
        raise StoreError(
            f"the sft row of {problem_id} has no {CODE}: it is not in the step format, and its prompt cannot be told apart"
        )
    return {
        "prompt": _text(prompt + opening),
        "completion": _text(completion),
        "problem_id": problem_id,
        "mean_q": mean_q,
    }


def pair_rows(
    store: Store, round: int, format: PromptFormat, config: PairConfig | None, *, margin: bool
) -> list[Row]:
    """One row per preference pair, steps and whole trajectories (`kind`), as `sft_rows` draws them. `margin`: Q(chosen) -
    Q(rejected), which a reward trainer demands of the scores."""
    rows: Iterable[tuple[Mapping[str, Any], float]]
    if config is None:
        rows = (
            (row, row["chosen_q"] - row["rejected_q"]) for row in store.table(Kind.PAIRS, round).to_pylist()
        )
    else:
        made = pair_set(
            store.trees(round), config=dataclasses.replace(config, max_tokens=NO_LIMIT, retokenize=True),
            format=format, encode=lambda _: (0,), max_output_chars=_max_output_chars(store, round),
        )  # fmt: skip
        rows = (
            (
                {
                    "prefix": pair.prefix_text,
                    "chosen": pair.chosen.text,
                    "rejected": pair.rejected.text,
                    "problem_id": pair.problem_id,
                    "kind": str(pair.kind),
                },
                pair.q_margin,
            )
            for group in made.groups
            for pair in group.preference_pairs()
        )
    return [
        {
            "prompt": _text(row["prefix"]),
            "chosen": _text(row["chosen"]),
            "rejected": _text(row["rejected"]),
            **({"margin": q_margin} if margin else {}),
            "problem_id": row["problem_id"],
            "kind": row["kind"],
        }
        for row, q_margin in rows
    ]


def verl_rows(
    store: Store, round: int, problems: Mapping[str, Problem] | None, data_source: str | None
) -> list[Row]:
    """One row per problem that has a tree. `problems` have the reference answers; without them a problem's is the verified
    answer that was found most often, and problems without one are left out.

    Raises StoreError for a tree whose problem is not among `problems`.
    """
    trees_of: dict[str, list[Tree]] = defaultdict(list)
    for tree in store.trees(round):
        trees_of[tree.problem_id].append(tree)
    records = {record.problem_id: record for record in store.records(round)}
    rows: list[Row] = []
    for problem_id, trees in sorted(trees_of.items()):
        answers = [(answer, verified) for tree in trees for answer, verified in _answers(tree)]
        right = Counter(answer for answer, verified in answers if verified)
        if problems is None:
            reference = max(right, key=lambda answer: right[answer], default="")
        elif problem_id in problems:
            reference = problems[problem_id].answer
        else:
            raise StoreError(
                f"{store.folder} has a tree of problem {problem_id}, which is not among --problems"
            )
        if not reference:
            continue
        record = records[problem_id]
        rows.append({
            "data_source": data_source or record.source or SOURCE,
            "prompt": [{"role": "user", "content": _text(trees[0].question)}],
            "ability": ABILITY,
            "reward_model": {"style": "rule", "ground_truth": _text(reference)},
            "extra_info": {
                "index": len(rows), "split": "train", "problem_id": problem_id, "level": record.level, "round": round,
                "num_answers": len(answers), "num_right": right.total(),
            },
        })  # fmt: skip
    return rows


def _answers(tree: Tree) -> Iterator[tuple[str, bool | None]]:
    for node in tree.nodes:
        if node.answer is not None:
            for _ in range(node.multiplicity):
                yield node.answer, node.verified


def _max_output_chars(store: Store, round: int) -> int:
    """How much of a program's output the search showed to the policy."""
    limits = {
        settings["max_output_chars"]
        for settings in store.settings(round).values()
        if "max_output_chars" in settings
    }
    if len(limits) > 1:
        raise StoreError(
            f"trees of round {round} of {store.folder} were searched with different max_output_chars "
            f"({', '.join(map(str, sorted(limits)))}); export stores with one"
        )
    return int(limits.pop()) if limits else SearchConfig().max_output_chars


def _text(text: str) -> str:
    """Text that any file can hold: lone surrogates, which a program may have printed, become question marks."""
    return text.encode("utf-8", "replace").decode()
