"""From sampled candidates to evaluated nodes: parse, merge equals, run, judge, score (rStar-Math, sections 3.2 and 3.3).

Nothing here writes to the tree; `mcts.expand` does. What the policy gets wrong becomes a marked node: a step that fails
to run (kept, never selected), one that does not parse, is cut by a token limit or lies too deep (terminal, value -1).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from rstar import logs
from rstar.config import Guidance, SearchConfig
from rstar.errors import BackendError, FormatError, GradingError, SandboxError
from rstar.mcts import Evaluated
from rstar.prompts import Prefix
from rstar.protocols import (
    AnswerJudge,
    Candidate,
    ExecutionVerdict,
    FinishReason,
    PolicyBackend,
    RunRequest,
    Sandbox,
    ScoreRequest,
    ValueBackend,
)
from rstar.steps import OUTPUT, Step, StepKind, codes, parse_step
from rstar.trajectories import extend_prefix
from rstar.tree import Node, TerminalReason, Tree

events = logs.events(__name__)

A = TypeVar("A")
Q = TypeVar("Q")

FAILED_VALUE = -1.0
"""Terminal value of a step that is no answer: unparsable, too deep, cut by a limit [code]."""
RETRY_DELAYS_S = (0.5, 2.0, 8.0)
"""Pauses before a failed back-end, sandbox or grader is asked again; then the tree is given up [ours]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What a search asks for work. `value` is None where no value model is at hand."""

    policy: PolicyBackend
    sandbox: Sandbox
    value: ValueBackend | None = None


@dataclass(slots=True)
class WorkerCounts:
    """What one worker of a cluster has done so far."""

    alive: bool = True
    trees: int = 0
    tokens: int = 0
    executions: int = 0


@dataclass(slots=True)
class SearchCounts:
    """What a search has done so far, over all its trees; for progress displays and reports."""

    rollouts: int = 0
    nodes: int = 0
    tokens: int = 0
    expansions: int = 0
    executions: Counter[ExecutionVerdict] = field(default_factory=Counter)
    terminals: Counter[TerminalReason] = field(default_factory=Counter)
    own_outputs: int = 0
    """Completions cut because the policy began to write its own output block."""
    retries: int = 0
    trees_in_flight: int = 0
    """Right now, not added up."""
    workers: dict[str, WorkerCounts] = field(default_factory=dict)
    """By name; empty where the search runs in this process."""

    def add(self, more: SearchCounts) -> None:
        """Add what another one counted."""
        for one in fields(self):
            if one.name not in _NOT_ADDED:
                setattr(self, one.name, getattr(self, one.name) + getattr(more, one.name))

    def take(self) -> SearchCounts:
        """What was counted since the last time; counting goes on from 0."""
        taken = copy(self)
        for one in fields(self):
            if one.name not in _NOT_ADDED:
                setattr(self, one.name, type(getattr(self, one.name))())
        return taken


_NOT_ADDED = frozenset({"workers", "trees_in_flight"})


async def evaluate(
    tree: Tree,
    parent_id: int,
    candidates: Sequence[Candidate],
    prefix: Prefix,
    *,
    engines: Engines,
    judge: AnswerJudge,
    config: SearchConfig,
    counts: SearchCounts,
    rollout: int,
) -> list[Evaluated]:
    """The distinct candidates of one expansion as nodes with values, in the order in which they were sampled.

    `prefix` is what the policy read. Raises BackendError, SandboxError or GradingError if one of them stays out of order.
    """
    parent = tree.nodes[parent_id]
    nodes = _merge_equal_texts(parent_id, parent.depth + 1, candidates, rollout)
    for node in nodes:
        _read(node, parent.kind, config)
    counts.own_outputs += sum(node.multiplicity for node in nodes if OUTPUT in node.text)

    await _run(tree, parent_id, nodes, engines, config, counts)
    for node in nodes:
        if node.live and node.terminal is None and node.kind is not StepKind.ANSWER:
            stdout = tree.program_output(parent_id) + node.stdout
            longer = extend_prefix(prefix, node, stdout, engines.policy.encode, config.max_output_chars)
            if len(longer) >= engines.policy.max_context_tokens:
                node.terminal, node.error = TerminalReason.CONTEXT_OVERFLOW, "no room for a next step"

    nodes = await _merge_equal_answers(nodes, judge, counts)
    rewards = await _judge(tree, nodes, prefix, engines, judge, counts)
    scores = await _score(tree, nodes, prefix, engines, config, counts)
    counts.nodes += len(nodes)
    counts.terminals.update(node.terminal for node in nodes if node.terminal is not None)
    return [Evaluated(node=node, value=rewards.get(i, scores.get(i))) for i, node in enumerate(nodes)]


def _merge_equal_texts(
    parent_id: int, depth: int, candidates: Sequence[Candidate], rollout: int
) -> list[Node]:
    """One node per distinct text, with how many candidates wrote it."""
    nodes: dict[tuple[str, FinishReason], Node] = {}
    for candidate in candidates:
        key = (candidate.text, candidate.finish_reason)
        if key in nodes:
            nodes[key].multiplicity += 1
            continue
        cut = candidate.finish_reason is FinishReason.LENGTH
        nodes[key] = Node(
            parent=parent_id,
            depth=depth,
            text=candidate.text,
            token_ids=candidate.token_ids,
            mean_logprob=sum(candidate.logprobs) / max(1, len(candidate.logprobs)),
            rollout=rollout,
            terminal=TerminalReason.CONTEXT_OVERFLOW if cut else None,
            error="cut by a token limit" if cut else "",
        )
    return list(nodes.values())


def _read(node: Node, after: StepKind | None, config: SearchConfig) -> None:
    """Parse the node's text; mark it if it is no step, or too deep for anything but an answer."""
    if node.terminal is not None:
        return
    try:
        step = parse_step(node.text, after=after)
    except FormatError as error:
        node.terminal, node.error = TerminalReason.UNPARSABLE, str(error)
        return
    node.kind, node.answer = step.kind, step.answer
    if step.kind is not StepKind.ANSWER and node.depth >= config.max_depth:
        node.terminal, node.error = TerminalReason.MAX_DEPTH, f"no answer within depth {config.max_depth}"


async def _run(
    tree: Tree,
    parent_id: int,
    nodes: Sequence[Node],
    engines: Engines,
    config: SearchConfig,
    counts: SearchCounts,
) -> None:
    """Execute the code steps among `nodes`, siblings at once, each in the state that the parent left."""
    to_run = [node for node in nodes if node.terminal is None and node.kind is not StepKind.ANSWER]
    history = codes(tree.steps(parent_id)) if to_run else ()
    requests = []
    for node in to_run:
        assert node.kind is not None, "a step that runs has parsed"
        requests.append(
            RunRequest(
                code=Step(node.kind, node.text).code,
                history=history,
                group=tree.name,
                keep_state=node.kind is StepKind.CODE and node.depth + 1 < config.max_depth,
                last_child=node is to_run[-1],
            )
        )
    results = await together(asking(engines.sandbox.run, request, counts) for request in requests)
    for node, result in zip(to_run, results, strict=True):
        node.execution, node.stdout, node.error = result.verdict, result.stdout, result.error
        counts.executions[result.verdict] += 1
    tree.num_executions += len(to_run)


async def _merge_equal_answers(nodes: Sequence[Node], judge: AnswerJudge, counts: SearchCounts) -> list[Node]:
    """Keep the first of the answers that grade as equal, with the multiplicities of all; order kept."""
    answers = [node for node in nodes if node.terminal is None and node.kind is StepKind.ANSWER]
    if not answers:
        return list(nodes)
    texts = [node.answer or "" for node in answers]
    classes = await asking(judge.equal, texts, counts)
    firsts: dict[int, Node] = {}
    merged = set()
    for node, answer_class in zip(answers, classes, strict=True):
        node.terminal = TerminalReason.ANSWERED
        if answer_class in firsts:
            firsts[answer_class].multiplicity += node.multiplicity
            merged.add(id(node))
        else:
            firsts[answer_class] = node
    return [node for node in nodes if id(node) not in merged]


async def _judge(
    tree: Tree,
    nodes: Sequence[Node],
    prefix: Prefix,
    engines: Engines,
    judge: AnswerJudge,
    counts: SearchCounts,
) -> dict[int, float]:
    """Terminal values by index: of answers the judge's, else the value model's for the whole trajectory, else the
    answer's share among the tree's answers so far; of everything else that ends here -1."""
    values = {i: FAILED_VALUE for i, node in enumerate(nodes) if node.terminal is not None}
    answers = {i: node for i, node in enumerate(nodes) if node.terminal is TerminalReason.ANSWERED}
    unjudged = {}
    rewards = await together(asking(judge.judge, node.answer or "", counts) for node in answers.values())
    for (i, node), reward in zip(answers.items(), rewards, strict=True):
        if reward is None:
            unjudged[i] = node
        else:
            values[i], node.verified = reward.value, reward.verified
    if unjudged and engines.value is not None:
        values.update(await _ask_value_model(tree, unjudged, prefix, engines.value, counts))
    elif unjudged:
        values.update(await _majority_values(tree, unjudged, judge, counts))
    return values


async def _majority_values(
    tree: Tree, answers: dict[int, Node], judge: AnswerJudge, counts: SearchCounts
) -> dict[int, float]:
    """2 * share - 1 for each answer: its share among all the candidates of this tree that answered so far."""
    earlier = [node for node in tree.nodes if node.terminal is TerminalReason.ANSWERED]
    everyone = [*earlier, *answers.values()]
    texts = [node.answer or "" for node in everyone]
    classes = await asking(judge.equal, texts, counts)
    votes: Counter[int] = Counter()
    for node, answer_class in zip(everyone, classes, strict=True):
        votes[answer_class] += node.multiplicity
    own_classes = classes[len(earlier) :]
    return {i: 2 * votes[c] / votes.total() - 1 for i, c in zip(answers, own_classes, strict=True)}


async def _score(
    tree: Tree,
    nodes: Sequence[Node],
    prefix: Prefix,
    engines: Engines,
    config: SearchConfig,
    counts: SearchCounts,
) -> dict[int, float]:
    """First values by index of the steps that the search may go on from; none under terminal guidance."""
    if config.guidance is not Guidance.PPM:
        return {}
    assert engines.value is not None, "PPM guidance has a value model"
    steps = {i: node for i, node in enumerate(nodes) if node.live and node.terminal is None}
    return await _ask_value_model(tree, steps, prefix, engines.value, counts) if steps else {}


async def _ask_value_model(
    tree: Tree, nodes: dict[int, Node], prefix: Prefix, value: ValueBackend, counts: SearchCounts
) -> dict[int, float]:
    """Scores in [-1, 1] by index; siblings in one request. Sets `initial_value`."""
    request = ScoreRequest(
        prefix_text=prefix.text,
        prefix_ids=prefix.token_ids,
        step_texts=tuple(node.text for node in nodes.values()),
        step_ids=tuple(node.token_ids for node in nodes.values()),
        group=tree.name,
    )
    scores = await asking(value.score, request, counts)
    if len(scores) != len(nodes):
        raise BackendError(f"the value model gave {len(scores)} scores for {len(nodes)} steps")
    for node, score in zip(nodes.values(), scores, strict=True):
        if not -1 <= score <= 1:
            raise BackendError(f"the value model scored a step {score}; scores are in [-1, 1]")
        node.initial_value = score
    return dict(zip(nodes, scores, strict=True))


async def asking(ask: Callable[[Q], Awaitable[A]], question: Q, counts: SearchCounts) -> A:
    """The answer of a back-end, sandbox or judge, asked again after a pause if it fails; each retry is counted."""
    for delay_s in RETRY_DELAYS_S:
        try:
            return await ask(question)
        except (BackendError, SandboxError, GradingError) as error:
            counts.retries += 1
            events.warning("asked again", error=f"{type(error).__name__}: {error}", delay_s=delay_s)
            await asyncio.sleep(delay_s)
    return await ask(question)


async def together(parts: Iterable[Coroutine[Any, Any, A]]) -> list[A]:
    """The results of all, run at once, in order. If one fails the others are cancelled and have ended before this raises,
    so that nothing goes on behind the back of a search that was given up."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
