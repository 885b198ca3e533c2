r"""Trees as rStar-Math's released code writes them, one JSON object per problem, read into trees of ours.

    {"question": …, "answer": …, "rstar": {"0": {…}, "0.1": {…}, "0.1.2": {"text": …, "observation": …, "final_answer": …,
                                                             "value": …, "q_value": …, "visit_count": …}}}

A key of `rstar` is a node's path: "0" is the root, "0.1.2" the second child of its first child. Read are `text`,
`observation`, `final_answer` (only its three failure messages), `value`, `q_value` and `visit_count`. The files say nothing
of tokens, log-probabilities, rollouts, seeds and settings: those are empty. docs/store.md says what becomes of the rest.

Statistics: N and W of an answer, and of a value model's first visits, are those of the file; N and W of the nodes above are
their sums, as in any tree of ours. Where a file's `visit_count` is another (its search backs up a step again when its code
runner breaks off), the tree says so in `num_recounted`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstar.errors import FormatError, ProblemError, StoreError
from rstar.problem_rows import Unreadable, rows_of
from rstar.problems import Problem, read_row
from rstar.protocols import ExecutionVerdict
from rstar.steps import CODE, END_OF_CODE, END_OF_OUTPUT, END_OF_STEP, OUTPUT, StepKind, parse_step
from rstar.tree import NO_PARENT, ROOT, Node, TerminalReason, Tree, check_invariants

TREE_FIELD = "rstar"
ROOT_TAG = "0"
_TAG = re.compile(r"0(?:\.[1-9][0-9]*)*")

CODE_ERRORS = "Too many consecutive steps have code errors."
TOO_MANY_STEPS = (
    "Fail to sove the problem within limited steps.",
    "Fail to solve the problem within limited steps.",
)
NO_STEP = "Fail to generate parsable text for next step."
FAILURES = (CODE_ERRORS, *TOO_MANY_STEPS, NO_STEP)
"""Values of `final_answer` that are no answers. Their search gives such a node a visit of its own and backs nothing up."""

_COLUMNS = frozenset({TREE_FIELD})


@dataclass(frozen=True, slots=True)
class ImportedTree:
    """A tree, its problem, and what does not carry over."""

    tree: Tree
    problem: Problem
    num_recounted: int
    """Nodes whose `visit_count` is not the sum of its parts."""
    num_unparsable: int
    """Answers and steps whose text is not in the step format."""


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """What is wrong with a row, and where; one line."""

    message: str


def read_trees(path: Path) -> Iterator[ImportedTree | MalformedRow]:
    """The trees of a `.jsonl` or `.json` (one array) file, in order; a row that is wrong in its place.

    Raises ProblemError if the file cannot be read at all.
    """
    if path.suffix == ".parquet":
        raise ProblemError(f"{path}: rStar-Math's trees are JSON: .jsonl, or .json with one array")
    for position, (line, row) in enumerate(rows_of(path, columns=_COLUMNS)):
        try:
            if isinstance(row, Unreadable):
                raise StoreError(row.message)
            yield _imported(row, position, path, line)
        except ProblemError as error:
            yield MalformedRow(str(error))
        except StoreError as error:
            yield MalformedRow(f"{path}:{line}: {error}")


def _imported(row: object, position: int, path: Path, line: int) -> ImportedTree:
    problem = read_row(row, position, path=path, line=line)
    assert isinstance(row, dict), "a problem's row is an object"
    states = row.get(TREE_FIELD)
    if not isinstance(states, dict) or not states:
        raise StoreError(
            f"{TREE_FIELD}: must be an object of nodes by tag; files of rStar-Math's searches (mode mcts) have it"
        )
    reader = _TreeReader(problem, states)
    return ImportedTree(reader.tree, problem, reader.num_recounted, reader.num_unparsable)


@dataclass(slots=True)
class _Counts:
    """Statistics of a node as the file has them."""

    value: float
    q_value: float
    visit_count: int


@dataclass
class _TreeReader:
    """Builds one tree: nodes in the order of the file's breadth-first walk, then statistics from the leaves up."""

    problem: Problem
    states: Mapping[str, Any]
    num_recounted: int = 0
    num_unparsable: int = 0
    scored: bool = False
    """A value model gave the steps their first visits."""
    tree: Tree = field(init=False)
    _counts: list[_Counts] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = Tree(problem_id=self.problem.id, question=self.problem.question, nodes=[])
        ids: dict[str, int] = {}
        tags = sorted(self.states, key=self._path)
        if tags[0] != ROOT_TAG:
            raise StoreError(f"{TREE_FIELD}.{ROOT_TAG}: is missing; it is the root")
        with_children = {tag.rpartition(".")[0] for tag in tags}
        for tag in tags:
            state = self.states[tag]
            if not isinstance(state, dict):
                raise StoreError(f"{TREE_FIELD}.{tag}: must be an object")
            parent = tag.rpartition(".")[0]
            if tag != ROOT_TAG and parent not in ids:
                raise StoreError(f"{TREE_FIELD}.{tag}: its parent {parent} is missing")
            ids[tag] = self._add(tag, state, ids.get(parent, NO_PARENT), leaf=tag not in with_children)
        self.scored = self._is_scored()
        for node_id in reversed(range(len(self.tree.nodes))):
            self._settle(node_id, tags[node_id])
        self.tree.num_executions = sum(
            node.kind in (StepKind.CODE, StepKind.FINAL_CODE) for node in self.tree.nodes
        )
        try:
            check_invariants(self.tree)
        except AssertionError as error:
            raise StoreError(f"{TREE_FIELD}: {error}") from None

    @staticmethod
    def _path(tag: str) -> tuple[int, list[int]]:
        """Sorts parents before children, children in order."""
        if not _TAG.fullmatch(tag):
            if tag == "solutions":
                raise StoreError(
                    f"{TREE_FIELD}.{tag}: a beam search, which counts no visits; only trees of mode mcts are imported"
                )
            raise StoreError(f"{TREE_FIELD}.{tag}: is no tag of a node, such as 0.1.2")
        return tag.count("."), [int(part) for part in tag.split(".")]

    def _add(self, tag: str, state: Mapping[str, Any], parent_id: int, *, leaf: bool) -> int:
        """Append the node, its text read; statistics come later."""
        nodes = self.tree.nodes
        visits = _number(state, tag, "visit_count")
        if visits < 0 or visits != int(visits):
            raise StoreError(
                f"{TREE_FIELD}.{tag}.visit_count: is {visits}; it must be a whole number of at least 0"
            )
        counts = _Counts(_number(state, tag, "value", 0.0), _number(state, tag, "q_value"), int(visits))
        if visits and not abs(counts.q_value) <= 1 + 1e-9:
            raise StoreError(f"{TREE_FIELD}.{tag}.q_value: is {counts.q_value}; values must be in [-1, 1]")
        self._counts.append(counts)
        if parent_id == NO_PARENT:
            nodes.append(Node(parent=NO_PARENT, depth=0))
            return ROOT
        parent = nodes[parent_id]
        node = Node(parent=parent_id, depth=parent.depth + 1)
        text, output = _split(_text(state, tag, "text"), first=parent_id == ROOT)
        observation = _text(state, tag, "observation", output)
        final_answer = _text(state, tag, "final_answer", "").strip()
        failure = final_answer if final_answer in FAILURES else ""
        if failure == CODE_ERRORS and text.endswith(END_OF_STEP + END_OF_CODE):
            text = text.removesuffix(END_OF_CODE)  # the search's own, to put the error behind it
        node.text = text
        try:
            step = parse_step(text, after=parent.kind)
        except FormatError as error:
            self.num_unparsable += 1
            node.error = str(error)
            if not leaf:
                raise StoreError(f"{TREE_FIELD}.{tag}.text: {error}, and steps follow it") from None
        else:
            node.kind, node.answer = step.kind, step.answer
            if final_answer and not failure and step.kind is not StepKind.ANSWER:
                self.num_unparsable += 1
                node.kind, node.error = None, "an answer was read from a code step"
        if failure == CODE_ERRORS and not leaf:
            raise StoreError(f"{TREE_FIELD}.{tag}: its code failed for good, and steps follow it")
        if failure == CODE_ERRORS:
            node.execution, node.error = ExecutionVerdict.ERROR, _last_line(observation) or failure
        elif failure:
            node.error = failure
        elif node.kind is StepKind.ANSWER:
            node.terminal = TerminalReason.ANSWERED
        elif final_answer:
            node.terminal = TerminalReason.UNPARSABLE
        if node.kind is StepKind.FINAL_CODE and node.live:
            node.stdout = observation
        nodes.append(node)
        parent.children.append(len(nodes) - 1)
        return len(nodes) - 1

    def _is_scored(self) -> bool:
        """Do most steps whose visits can be told without it have one visit more than the answers right below them gave?"""
        nodes = self.tree.nodes
        votes = []
        for node_id, node in enumerate(nodes):
            children = [nodes[child] for child in self.tree.live_children(node_id)]
            is_step = node_id != ROOT and node.live and node.terminal is None and node.error not in FAILURES
            if is_step and all(child.terminal is not None for child in children):
                votes.append(self._counts[node_id].visit_count > len(children))
        return sum(votes) > len(votes) / 2

    def _settle(self, node_id: int, tag: str) -> None:
        """N, W and closing of a node whose children are settled."""
        node, counts = self.tree.nodes[node_id], self._counts[node_id]
        if not node.live:
            return
        live = [self.tree.nodes[child] for child in self.tree.live_children(node_id)]
        if node.terminal is not None:
            if live:
                raise StoreError(f"{TREE_FIELD}.{tag}: it is an answer, and steps follow it")
            node.visit_count, node.value_sum = 1, counts.q_value if counts.visit_count else 0.0
        else:
            node.visit_count = sum(child.visit_count - child.scored for child in live)
            node.value_sum = math.fsum(child.value_sum - _first(child) for child in live)
            failed = node.error in FAILURES
            if self.scored and node_id != ROOT and not failed and counts.visit_count:
                if not abs(counts.value) <= 1 + 1e-9:
                    raise StoreError(
                        f"{TREE_FIELD}.{tag}.value: is {counts.value}; values must be in [-1, 1]"
                    )
                node.initial_value = counts.value
                node.visit_count += 1
                node.value_sum += counts.value
        if node.error not in FAILURES and node.visit_count != counts.visit_count:
            self.num_recounted += 1
        node.closed = node.terminal is not None or (bool(live) and all(child.closed for child in live))


def _first(node: Node) -> float:
    """The value of a first visit, which is not backed up."""
    return node.initial_value if node.scored and node.initial_value is not None else 0.0


def _split(text: str, *, first: bool) -> tuple[str, str]:
    """A node's text as the policy's step alone, and the program's output that stands behind it. The engine writes the opening
    tag and one line break before a step."""
    if first:
        text = text.lstrip().removeprefix(CODE)
    text = text.removeprefix("\n")
    step, opening, rest = text.partition(OUTPUT)
    return (step.rstrip("\n"), rest.rpartition(END_OF_OUTPUT)[0]) if opening else (text, "")


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def _number(state: Mapping[str, Any], tag: str, name: str, default: float | None = None) -> float:
    value = state.get(name, default)
    if value is None:
        raise StoreError(f"{TREE_FIELD}.{tag}.{name}: is missing")
    if isinstance(value, list) and len(value) == 1:  # some value models answer with a list of one
        value = value[0]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StoreError(f"{TREE_FIELD}.{tag}.{name}: is {value!r}; it must be a number")
    return number


def _text(state: Mapping[str, Any], tag: str, name: str, default: str | None = None) -> str:
    value = state.get(name, default)
    if not isinstance(value, str):
        found = "is missing" if value is None else f"is {value!r}; it must be text"
        raise StoreError(f"{TREE_FIELD}.{tag}.{name}: {found}")
    return str(value)
