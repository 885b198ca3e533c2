"""Small worlds to search: random ones, faulty ones, and one call that searches them. Imports no test framework, so that
other processes can run them too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rstar.backends.scripted import ChainWorld, ScriptedPolicy, ScriptedValue
from rstar.config import Guidance, SearchConfig
from rstar.errors import BackendError, GradingError, SandboxError
from rstar.evaluation import Engines, SearchCounts
from rstar.prompts import BARE, PromptFormat
from rstar.protocols import (
    AnswerJudge,
    Candidate,
    ExecutionResult,
    PolicyBackend,
    ProposeRequest,
    Reward,
    RunRequest,
    Sandbox,
    ScoreRequest,
    ValueBackend,
)
from rstar.search import SearchResult, SearchTask, TreeSearch, search_trees
from rstar.seeds import derive, rng
from rstar.steps import END_OF_ANSWER, END_OF_CODE, END_OF_STEP
from rstar.tree import Tree
from tests.rstar.fakes import InProcessSandbox, TextJudge

QUESTION = "Start with 7. Then add 3. Then times 4."


@dataclass(frozen=True, kw_only=True)
class RandomWorld:
    """A policy that writes steps of every kind at the stated rates, and answers "0", "1" or "2"; "1" is right.

    Few distinct texts, so that candidates repeat and scores tie.
    """

    final: float = 0.3
    """Rate of last code steps."""
    crash: float = 0.1
    nonsense: float = 0.05
    own_output: float = 0.02
    variants: int = 4
    """How many different steps of each kind there are."""

    def respond(self, prefix: str, chance: random.Random) -> str:
        roll, variant = chance.random(), chance.randrange(self.variants)
        if END_OF_CODE in prefix:
            if roll < self.nonsense:
                return "I do not know" + END_OF_ANSWER
            return rf"<answer>Way {variant}: \boxed{{{variant % 3}}}{END_OF_ANSWER}"
        for rate, text in (
            (self.nonsense, f"hmm {variant}{END_OF_ANSWER}"),
            (self.own_output, f"x = {variant}\n<output>"),
            (self.crash, f"x = {variant} / 0\n{END_OF_STEP}"),
            (self.final, f"print({variant})\n{END_OF_CODE}"),
        ):
            if roll < rate:
                return text
            roll -= rate
        return f"x = {variant}\nprint('step', x)\n{END_OF_STEP}"


def coarse_value(text: str) -> float:
    """A score in [-1, 1] with few levels, so that ties happen; depends on the whole text."""
    return derive(0, text) % 9 / 4 - 1


class Faults:
    """Fails the calls whose numbers are in `failing` (1 is the first), with the error of their part."""

    def __init__(self, failing: Collection[int]) -> None:
        self._failing = failing
        self.calls = 0

    def next_call(self, error: type[Exception]) -> None:
        self.calls += 1
        if self.calls in self._failing:
            raise error(f"injected failure of call {self.calls}")


class FaultyPolicy(ScriptedPolicy):
    def __init__(self, respond: Callable[[str, random.Random], str], faults: Faults) -> None:
        super().__init__(respond)
        self._faults = faults

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        await asyncio.sleep(0)
        self._faults.next_call(BackendError)
        return await super().propose(request)


class FaultySandbox(InProcessSandbox):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def run(self, request: RunRequest) -> ExecutionResult:
        await asyncio.sleep(0)
        self._faults.next_call(SandboxError)
        return await super().run(request)


class FaultyJudge(TextJudge):
    def __init__(self, reference: str | None, faults: Faults) -> None:
        super().__init__(reference)
        self._faults = faults

    async def equal(self, answers: Sequence[str]) -> list[int]:
        await asyncio.sleep(0)
        self._faults.next_call(GradingError)
        return await super().equal(answers)

    async def judge(self, answer: str) -> Reward | None:
        await asyncio.sleep(0)
        self._faults.next_call(GradingError)
        return await super().judge(answer)


class FaultyValue(ScriptedValue):
    def __init__(self, value: Callable[[str], float], faults: Faults) -> None:
        super().__init__(value)
        self._faults = faults

    async def score(self, request: ScoreRequest) -> list[float]:
        await asyncio.sleep(0)
        self._faults.next_call(BackendError)
        return await super().score(request)


class Slow:
    """Sleeps before each call for a time that depends on `seed` and the number of the call."""

    def __init__(self, seed: int, longest_s: float) -> None:
        self._chance = rng(seed, "latency")
        self._longest_s = longest_s

    async def pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._longest_s))


class SlowPolicy(ScriptedPolicy):
    def __init__(self, respond: Callable[[str, random.Random], str], slow: Slow) -> None:
        super().__init__(respond)
        self._slow = slow

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        await self._slow.pause()
        return await super().propose(request)


class SlowSandbox(InProcessSandbox):
    def __init__(self, slow: Slow) -> None:
        super().__init__()
        self._slow = slow

    async def run(self, request: RunRequest) -> ExecutionResult:
        await self._slow.pause()
        return await super().run(request)


def new_tree(question: str = QUESTION, *, problem_id: str = "p", seed: int = 0, tree_index: int = 0) -> Tree:
    return Tree(problem_id=problem_id, question=question, seed=seed, tree_index=tree_index)


def engines(
    policy: PolicyBackend | Callable[[str, random.Random], str],
    *,
    value: ValueBackend | Callable[[str], float] | None = None,
    sandbox: Sandbox | None = None,
) -> Engines:
    """Engines from functions or back-ends; a naive sandbox in this process unless another is given."""
    return Engines(
        policy=policy if isinstance(policy, PolicyBackend) else ScriptedPolicy(policy),
        sandbox=sandbox or InProcessSandbox(),
        value=value if value is None or isinstance(value, ValueBackend) else ScriptedValue(value),
    )


def search_one(
    tree: Tree,
    parts: Engines,
    config: SearchConfig,
    *,
    judge: AnswerJudge | None = None,
    num_rollouts: int | None = None,
    format: PromptFormat = BARE,
    counts: SearchCounts | None = None,
) -> Tree:
    """Search `tree` to the end of its rollouts; right is "1" unless another judge is given."""
    search = TreeSearch(tree, parts, judge or TextJudge("1"), config, format=format, counts=counts)
    asyncio.run(search.run(num_rollouts))
    return tree


def chain_trees(
    count: int,
    config: SearchConfig,
    *,
    max_trees_in_flight: int = 64,
    reverse: bool = False,
    share: int = 0,
    shares: int = 1,
) -> dict[str, Tree]:
    """Search every `shares`-th of `count` problems of a chain world, as one of several workers would; trees by name."""
    world = ChainWorld(num_operations=2, slip=0.3, crash=0.15, nonsense=0.05)
    value = ScriptedValue(coarse_value) if config.guidance is Guidance.PPM else None
    tasks = [
        SearchTask(tree=new_tree(problem.question, problem_id=problem.id), judge=TextJudge(problem.answer))
        for problem in world.problems(count)[share::shares]
    ]
    if reverse:
        tasks.reverse()
    parts = engines(world.policy(), value=value)
    results = asyncio.run(collect(tasks, parts, config, max_trees_in_flight=max_trees_in_flight))
    return {result.tree.name: result.tree for result in results}


async def collect(
    tasks: Sequence[SearchTask],
    parts: Engines,
    config: SearchConfig,
    *,
    max_trees_in_flight: int = 64,
    counts: SearchCounts | None = None,
) -> list[SearchResult]:
    found = search_trees(tasks, parts, config, max_trees_in_flight=max_trees_in_flight, counts=counts)
    return [result async for result in found]
