"""Deterministic back-ends without a model: for tests, demonstrations and measurements of the engine alone.

`ScriptedPolicy` answers from a function of the prefix text; token ids are the text's UTF-8 bytes, so nothing is lost
either way. `ChainWorld` is a small world of its own: questions that chain operations on a number, and a policy that
solves them with stated rates of slips, crashes and nonsense.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rstar.errors import BackendError, ConfigError
from rstar.problems import Problem
from rstar.protocols import Candidate, FinishReason, ProposeRequest, ScoreRequest
from rstar.seeds import rng
from rstar.steps import END_OF_ANSWER, END_OF_CODE, END_OF_OUTPUT, END_OF_STEP, OUTPUT

Respond = Callable[[str, random.Random], str]
"""From the prefix text and a private generator to the text of one candidate."""


class ScriptedPolicy:
    """A policy that is a function. Candidate i of a request depends on the prefix, the request's seed and i alone.

    A text beyond `max_step_tokens` bytes, or beyond the context, is cut (`FinishReason.LENGTH`) as a model's would be.
    Each byte has log-probability `logprob`.
    """

    def __init__(self, respond: Respond, *, max_context_tokens: int = 1 << 20, logprob: float = -0.1) -> None:
        self._respond = respond
        self._max_context_tokens = max_context_tokens
        self._logprob = logprob

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        raise ConfigError("the scripted policy has no chat template; use a prompt format without one")

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        prefix = bytes(request.prefix_ids).decode()
        room = min(request.sampling.max_step_tokens, self._max_context_tokens - len(request.prefix_ids))
        return [
            self._candidate(self._respond(prefix, rng(request.seed, i)), max(0, room))
            for i in range(request.num_candidates)
        ]

    def _candidate(self, text: str, room: int) -> Candidate:
        ids = text.encode()
        reason = FinishReason.STOP if len(ids) <= room else FinishReason.LENGTH
        kept = ids[:room].decode(errors="ignore") if reason is FinishReason.LENGTH else text
        ids = kept.encode()
        return Candidate(
            text=kept, token_ids=tuple(ids), logprobs=(self._logprob,) * len(ids), finish_reason=reason
        )

    async def aclose(self) -> None:
        pass


class ScriptedValue:
    """A value model that is a function of the text of the prefix and the step."""

    def __init__(self, value: Callable[[str], float]) -> None:
        self._value = value

    async def score(self, request: ScoreRequest) -> list[float]:
        return [self._value(request.prefix_text + step) for step in request.step_texts]

    async def aclose(self) -> None:
        pass


class BrokenPolicy(ScriptedPolicy):
    """A policy whose every `period`-th request fails, to see that nothing is lost or counted twice by that."""

    def __init__(self, respond: Respond, *, period: int) -> None:
        super().__init__(respond)
        self._period = period
        self._requests = 0

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        self._requests += 1
        if self._requests % self._period == 0:
            raise BackendError(f"scripted failure of request {self._requests}")
        return await super().propose(request)


@dataclass(frozen=True, kw_only=True)
class ChainWorld:
    """Questions such as "Start with 7. Then add 3. Then times 4." and a policy that takes one operation a step.

    Rates are per candidate: `slip` does a wrong operation, `crash` raises, `nonsense` does not parse.
    """

    num_operations: int = 4
    slip: float = 0.2
    crash: float = 0.1
    nonsense: float = 0.02

    def problems(self, count: int, *, seed: int = 0) -> list[Problem]:
        return [self._problem(index, seed) for index in range(count)]

    def policy(self, *, max_context_tokens: int = 1 << 20) -> ScriptedPolicy:
        return ScriptedPolicy(self.respond, max_context_tokens=max_context_tokens)

    def _problem(self, index: int, seed: int) -> Problem:
        chance = rng(seed, "chain", index)
        value = chance.randint(2, 20)
        parts = [f"Start with {value}."]
        for _ in range(self.num_operations):
            operation, operand = chance.choice("+-*"), chance.randint(2, 9)
            value = _apply(value, operation, operand)
            parts.append(f"Then {_WORDS[operation]} {operand}.")
        question = " ".join(parts)
        return Problem(id=f"chain-{index}", question=question, answer=str(value), level="chain")

    def respond(self, prefix: str, chance: random.Random) -> str:
        """The next step after `prefix`: the right one, or at the stated rates another."""
        roll = chance.random()
        if roll < self.nonsense:
            return "hmm" + END_OF_ANSWER
        if END_OF_CODE in prefix:
            output = prefix.rpartition(OUTPUT)[2].partition(END_OF_OUTPUT)[0]
            return rf"<answer>The answer is \boxed{{{output}}}{END_OF_ANSWER}"
        done = prefix.count(END_OF_STEP)
        first, *operations = prefix.partition("Start with ")[2].partition(".\n")[0].split(". Then ")
        if done > len(operations):
            return f"# Print the result\nprint(x)\n{END_OF_CODE}"
        if roll < self.nonsense + self.crash:
            return f"# Step {done + 1}: divide\nx = {chance.randint(1, 9)} / 0\n{END_OF_STEP}"
        if done == 0:
            return f"# Step 1: the start\nx = {first}\n{END_OF_STEP}"
        word, operand = operations[done - 1].split()
        symbol = _SYMBOLS[word]
        if roll < self.nonsense + self.crash + self.slip:
            symbol, operand = chance.choice("+-*"), str(chance.randint(2, 9))
        return f"# Step {done + 1}: {word} {operand}\nx = x {symbol} {operand}\n{END_OF_STEP}"


_WORDS = {"+": "add", "-": "subtract", "*": "times"}
_SYMBOLS = {word: symbol for symbol, word in _WORDS.items()}


def _apply(value: int, operation: str, operand: int) -> int:
    match operation:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case _:
            return value * operand
