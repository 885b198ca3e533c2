"""What is learned from, as data: preference pairs, the groups they come in, and what became of the trees (`pairs` makes
them); and labelled groups, for the baselines (`labels`)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MARGIN_BIN = 0.25
"""Width of a bin of the margin histogram."""


class PairKind(StrEnum):
    """What is compared."""

    STEP = "step"
    """Two steps after one prefix."""
    FINAL = "final"
    """Two whole trajectories after the prompt."""


class DropReason(StrEnum):
    """Why a tree or a prefix has no pairs, or a pair was left out."""

    NO_ANSWER = "no_answer"
    """Tree: no answer was judged."""
    ALL_CORRECT = "all_correct"
    """Tree: every judged answer is correct."""
    ALL_WRONG = "all_wrong"
    """Tree: every judged answer is wrong. (Code errors and dead ends are no wrong answers.)"""
    ONE_CHILD = "one_child"
    """Prefix: one child alone leads to both correct and wrong answers; they part further down."""
    MARGIN = "margin"
    """Pair: the Q-values are closer than `min_q_margin`."""
    EDIT_DISTANCE = "edit_distance"
    """Pair: the texts are closer than `min_edit_distance`."""
    TOO_LONG = "too_long"
    """Pair: what is judged has more than `max_tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What follows a prefix and is judged: one step, or all steps of a trajectory with the output between them."""

    node_id: int
    """Its last node: the model's score is read at the end of that step."""
    text: str
    token_ids: tuple[int, ...]
    q_value: float
    """Of that node, in [-1, 1]; of an answer, +1 or -1."""
    depth: int
    """Of that node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """After one prefix, `chosen` is better than `rejected`."""

    problem_id: str
    tree_index: int
    kind: PairKind
    parent: int
    """The node that the prefix ends with; the root for a final pair."""
    prefix_text: str
    prefix_ids: tuple[int, ...]
    chosen: Continuation
    rejected: Continuation

    @property
    def q_margin(self) -> float:
        """Q(chosen) - Q(rejected), in [-2, 2]."""
        return self.chosen.q_value - self.rejected.q_value


@dataclass(frozen=True, slots=True, kw_only=True)
class PairGroup:
    """The pairs of one prefix. Every continuation is in one pair at least."""

    problem_id: str
    tree_index: int
    kind: PairKind
    parent: int
    prefix_text: str
    prefix_ids: tuple[int, ...]
    chosen: tuple[Continuation, ...]
    rejected: tuple[Continuation, ...]
    """Both in the order in which they first appear in `pairs`."""
    pairs: tuple[tuple[int, int], ...]
    """Indices into `chosen` and `rejected`: all |chosen| x |rejected| of them, but for those left out. The best chosen
    and the worst rejected come first; of these, such as lead to no correct answer before such as do."""

    @property
    def continuations(self) -> tuple[Continuation, ...]:
        """The chosen, then the rejected."""
        return (*self.chosen, *self.rejected)

    @property
    def size(self) -> int:
        """Pairs."""
        return len(self.pairs)

    def preference_pairs(self) -> Iterator[PreferencePair]:
        for chosen, rejected in self.pairs:
            yield PreferencePair(
                problem_id=self.problem_id,
                tree_index=self.tree_index,
                kind=self.kind,
                parent=self.parent,
                prefix_text=self.prefix_text,
                prefix_ids=self.prefix_ids,
                chosen=self.chosen[chosen],
                rejected=self.rejected[rejected],
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledGroup:
    """What follows one prefix, each with its value: what a model of values, rather than preferences, learns from."""

    problem_id: str
    tree_index: int
    parent: int
    """The node that the prefix ends with."""
    prefix_ids: tuple[int, ...]
    continuations: tuple[Continuation, ...]
    """Their `q_value` is the label, in [-1, 1]; of whole trajectories +1 or -1."""

    @property
    def size(self) -> int:
        """Continuations."""
        return len(self.continuations)


Group = PairGroup | LabelledGroup


@dataclass(slots=True, kw_only=True)
class PairReport:
    """What became of the trees."""

    num_trees: int = 0
    num_nodes: int = 0
    num_groups: Counter[PairKind] = dataclasses.field(default_factory=Counter)
    num_pairs: Counter[PairKind] = dataclasses.field(default_factory=Counter)
    depths: Counter[int] = dataclasses.field(default_factory=Counter)
    """Step pairs by depth of their steps."""
    margins: Counter[float] = dataclasses.field(default_factory=Counter)
    """Pairs of steps by q margin before any was left out: lower edge of a bin of `MARGIN_BIN` to number."""
    dropped: Counter[DropReason] = dataclasses.field(default_factory=Counter)

    @property
    def common_prefix_share(self) -> float:
        """Share of the pairs whose continuations follow the same steps, in [0, 1]; 0 without pairs."""
        return self.num_pairs[PairKind.STEP] / max(1, self.num_pairs.total())


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """Groups in the order of their trees; within a tree by node id of the prefix, the final pairs last."""

    groups: tuple[PairGroup, ...]
    report: PairReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Groups in the order of their trees, within a tree by node id of the prefix."""

    groups: tuple[LabelledGroup, ...]
    num_too_long: int
    """Continuations left out for their length."""
