"""Ask a question, get an answer: the search for inference, as a library.

    >>> from rstar import Solver
    >>> with Solver("rounds/base") as solver:  # the embedded model, at the top of a checkout
    ...     found = solver.solve("work out 30 percent of 100.")
    >>> found.answer
    '30'
    >>> round(sum(one.support for one in found.alternatives), 6)  # every answer that was given, with its share of the vote
    1.0
    >>> print(found.trajectory.text.splitlines()[-1])  # the solution: code, what it printed, the answer
    <answer>The answer is \\boxed{30}<end_of_answer>

Policy, preference model, sandbox and grader are opened with the first question and shared by all that follow. They live in an
event loop in a thread of their own, so that plain functions, other event loops and notebooks use the same solver.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rstar.answers import Answer, Event, Finished, StepsFound, StopReason, answered, conclude, decided
from rstar.config import SearchConfig, require
from rstar.engine_room import Deadline, EngineRoom, SharedEngines
from rstar.engines import Backend, EngineConfig
from rstar.errors import ConfigError
from rstar.evaluation import Engines
from rstar.grading import Grader, GraderConfig, NoReferenceJudge
from rstar.prompts import FORMATS, PromptFormat, render_prompt
from rstar.sandbox import SandboxConfig
from rstar.search import TreeSearch
from rstar.selection import Method
from rstar.strategies import Strategy, check_method, configured, default_method, follow
from rstar.tree import Tree

if TYPE_CHECKING:
    from rich.console import Console

    from rstar.protocols import PolicyBackend, ValueBackend

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

INFERENCE = SearchConfig(num_rollouts=8, num_candidates=8)
"""What one answer gets by default [ours]; the paper has 4 rollouts of 32 candidates (section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How a question is solved: what `Solver` takes besides models and machinery, under the same names.

    Raises ConfigError for a value out of range, one line that begins with its name.
    """

    search: SearchConfig = INFERENCE
    strategy: Strategy = Strategy.MCTS
    selection: Method | None = None
    seconds: float | None = None
    certainty: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", member(Strategy, self.strategy, "strategy"))
        if self.selection is not None:
            object.__setattr__(self, "selection", member(Method, self.selection, "selection"))
        require(self.seconds is None or self.seconds > 0, "seconds", self.seconds, "above 0, or None")
        certainty = self.certainty
        require(certainty is None or 0.5 < certainty <= 1, "certainty", certainty, "in (0.5, 1], or None")


class Solver:
    """Answers questions with a policy, and with a preference model if there is one.

    `policy` and `ppm` are model folders, or back-ends (`rstar.protocols`), which are closed with the solver. `backend` is
    the engine for folders: "transformers", "vllm", "openai", or an `EngineConfig` with its settings. `search` has the
    budgets in rollouts (`num_rollouts`: also of samples and beams) and tokens (`max_tree_tokens`), and how many rollouts of
    a question are in flight (`parallel_rollouts`: more answer one question sooner, and make its tree depend on timing);
    `guidance` is the solver's to decide. `seconds` is a deadline for each question, after which the best answer so far is
    given. `certainty` in (0.5, 1] ends a search of rollouts as soon as its vote is decided with that probability; None: never.
    `selection` selects the answer; by default a vote weighted by score, without preference model the majority, for best_of_n
    the best-scored. `seed` decides every random choice: at one rollout in flight, and without a deadline, the same solver
    gives the same trees.

    Raises ConfigError, one line, for what does not fit together; a folder that holds no model is noticed with the first
    question.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str] | PolicyBackend,
        *,
        ppm: str | os.PathLike[str] | ValueBackend | None = None,
        backend: str | EngineConfig = Backend.TRANSFORMERS,
        search: SearchConfig = INFERENCE,
        strategy: Strategy | str = Strategy.MCTS,
        selection: Method | str | None = None,
        seconds: float | None = None,
        certainty: float | None = None,
        prompt_format: str | PromptFormat = "bare",
        sandbox: SandboxConfig | None = None,
        grading: GraderConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.engine = (
            backend
            if isinstance(backend, EngineConfig)
            else EngineConfig(backend=member(Backend, backend, "backend"))
        )
        if isinstance(prompt_format, str):
            require(prompt_format in FORMATS, "prompt_format", prompt_format, f"one of {', '.join(FORMATS)}")
            prompt_format = FORMATS[prompt_format]
        self._format = prompt_format
        self._has_value = ppm is not None
        self._room = EngineRoom(
            SharedEngines(policy, ppm, self.engine, sandbox or SandboxConfig(), grading or GraderConfig())
        )
        self._follow(
            SolveOptions(
                search=search,
                strategy=member(Strategy, strategy, "strategy"),
                selection=None if selection is None else member(Method, selection, "selection"),
                seconds=seconds,
                certainty=certainty,
                seed=seed,
            )
        )

    def _follow(self, options: SolveOptions) -> None:
        self.options = options
        self.strategy = options.strategy
        self.search = configured(self.strategy, options.search, has_value=self._has_value)
        self.selection = options.selection or default_method(self.strategy, has_value=self._has_value)
        check_method(self.selection, has_value=self._has_value)

    def with_options(self, **changes: Any) -> Self:
        """This solver with other options (fields of `SolveOptions`); what is not named stays.

        It costs microseconds: models, sandbox and grader are shared, and opened and closed for both. Raises ConfigError as
        `Solver` does.
        """
        other = copy.copy(self)
        other._follow(dataclasses.replace(self.options, **changes))
        return other

    # --- questions

    def solve(self, question: str, *, seconds: float | None = None, seed: int | None = None) -> Answer:
        """The answer to one question. `seconds` and `seed` are those of the solver unless given.

        Ctrl-C raises KeyboardInterrupt once the search has ended; the solver can be asked again. Raises ConfigError for a
        model that cannot be used, BackendError, SandboxError or GradingError for one that stays out of order.
        """
        return _wait(self._submit(question, seconds=seconds, seed=seed))

    def solve_many(
        self, questions: Sequence[str], *, progress: bool = True, console: Console | None = None
    ) -> list[Answer]:
        """The answers to many questions, in their order, searched at once (`EngineConfig.max_trees_in_flight`).

        `progress` shows a bar on standard error. Ctrl-C ends all searches and returns what they know by then: their
        `stopped_by` is `StopReason.INTERRUPTED`. Raises as `solve`.
        """
        futures = [self._submit(question) for question in questions]
        try:
            with _bar(len(questions), console, shown=progress) as advance:
                for future in futures:
                    future.add_done_callback(lambda _: advance())
                _wait_for_all(futures)
        except KeyboardInterrupt:
            self.interrupt()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    async def asolve(self, question: str, *, seconds: float | None = None, seed: int | None = None) -> Answer:
        """As `solve`, without blocking the event loop of the caller; cancelling it ends the search."""
        return await asyncio.wrap_future(self._submit(question, seconds=seconds, seed=seed))

    async def stream(
        self, question: str, *, seconds: float | None = None, seed: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `asolve`, with every step as it is found, and the answer as the last event. Closing the iterator ends the search."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[StepsFound | None] = asyncio.Queue()

        def tell(event: StepsFound | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        future = self._submit(question, seconds=seconds, seed=seed, tell=tell)
        future.add_done_callback(lambda _: tell(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield Finished(answer=await asyncio.wrap_future(future))
        finally:
            future.cancel()

    def interrupt(self) -> None:
        """End every search that was asked for by now; each answers with what it knows."""
        self._room.interrupt()

    # --- life

    def open(self) -> Self:
        """Start policy, preference model, sandbox and grader now instead of with the first question."""
        _wait(self._room.submit(self._room.engines.opened()))
        return self

    def close(self) -> None:
        """End everything; a second call does nothing. Ends by itself with the program."""
        self._room.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(
        self,
        question: str,
        *,
        seconds: float | None = None,
        seed: int | None = None,
        tell: Callable[[StepsFound], None] | None = None,
    ) -> Future[Answer]:
        if not question.strip():
            raise ConfigError("the question is empty; ask one")
        require(seconds is None or seconds > 0, "seconds", seconds, "above 0, or None")
        return self._room.submit(
            self._answer(
                question, seconds=self.options.seconds if seconds is None else seconds,
                seed=self.options.seed if seed is None else seed, tell=tell,
            )
        )  # fmt: skip

    # --- inside the loop

    async def _answer(
        self,
        question: str,
        *,
        seconds: float | None,
        seed: int,
        tell: Callable[[StepsFound], None] | None,
    ) -> Answer:
        tree = Tree(problem_id=question_id(question), question=question, seed=seed)
        shared = self._room.engines
        vote = _RunningVote(self.options.certainty)
        classes: list[int] = []
        prompt_tokens = 0
        began = time.monotonic()
        async with shared.deadline() as deadline:
            engines, grader = await shared.opened()
            prompt = render_prompt(self._format, question, engines.policy.render_chat)
            prompt_tokens = len(engines.policy.encode(prompt))
            async with shared.gate:
                began = time.monotonic()
                deadline.begin(seconds)
                await self._search(tree, shared.apart(engines), grader, vote, tell)
        if node_ids := answered(tree):
            _, grader = await shared.opened()
            classes = await grader.classes([tree.nodes[node_id].answer or "" for node_id in node_ids])
        return conclude(
            tree, classes, method=self.selection, strategy=self.strategy,
            stopped_by=self._why_stopped(tree, deadline, vote), seconds=time.monotonic() - began,
            prompt_tokens=prompt_tokens,
        )  # fmt: skip

    async def _search(
        self,
        tree: Tree,
        engines: Engines,
        grader: Grader,
        vote: _RunningVote,
        tell: Callable[[StepsFound], None] | None,
    ) -> None:
        if self.strategy is Strategy.MAJORITY:  # nobody asks for scores
            engines = dataclasses.replace(engines, value=None)

        def on_expanded(grown: Tree, node_id: int) -> None:
            if tell is not None and (new := tuple(grown.nodes[node_id].children)):
                tell(StepsFound(tree=grown, parent=node_id, node_ids=new))

        async def enough(grown: Tree) -> bool:
            return await vote.decided(grown, grader)

        search = TreeSearch(
            tree, engines, NoReferenceJudge(grader), self.search,
            format=self._format, on_expanded=on_expanded, enough=enough,
        )  # fmt: skip
        await follow(self.strategy, search)

    def _why_stopped(self, tree: Tree, deadline: Deadline, vote: _RunningVote) -> StopReason:
        budget = self.search.max_tree_tokens
        if deadline.interrupted:
            return StopReason.INTERRUPTED
        if deadline.expired:
            return StopReason.SECONDS
        if vote.was_decided:
            return StopReason.CONVERGED
        if budget is not None and tree.num_tokens >= budget:
            return StopReason.TOKENS
        done = tree.num_rollouts >= self.search.num_rollouts
        return StopReason.EXHAUSTED if tree.exhausted and not done else StopReason.ROLLOUTS


def question_id(question: str) -> str:
    """A name for a question that depends on its text alone."""
    return f"question-{hashlib.blake2b(question.encode(), digest_size=6).hexdigest()}"


class _RunningVote:
    """Whether the vote of a running search is decided."""

    def __init__(self, certainty: float | None) -> None:
        self._certainty = certainty
        self.was_decided = False

    async def decided(self, tree: Tree, grader: Grader) -> bool:
        if self._certainty is None or not (node_ids := answered(tree)):
            return False
        nodes = [tree.nodes[node_id] for node_id in node_ids]
        counts: Counter[int] = Counter()
        classes = await grader.classes([node.answer or "" for node in nodes])
        for node, answer_class in zip(nodes, classes, strict=True):
            counts[answer_class] += node.multiplicity
        self.was_decided = decided(list(counts.values()), self._certainty)
        return self.was_decided


def _wait(future: Future[T]) -> T:
    """The result, or the end of what makes it: nothing goes on behind the back of who was interrupted."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _wait_for_all(futures: Sequence[Future[Any]]) -> None:
    done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
    for future in done:
        future.result()


@contextmanager
def _bar(total: int, console: Console | None, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar; what it yields moves it on by one question, from any thread."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("solving"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console or Console(stderr=True), disable=not shown, transient=True
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def member(kind: type[E], value: str, name: str) -> E:
    """The member of an enumeration. Raises ConfigError, naming what it is for, for a text that is none."""
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{name} is {str(value)!r}; it must be one of {', '.join(kind)}") from None
