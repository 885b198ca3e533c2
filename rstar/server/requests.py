"""What clients ask: OpenAI's two kinds of completion, and our own search; all three with the options of a search.

Of OpenAI's parameters, those that a search has no use for are accepted where they change nothing and refused where they
would, so that nobody believes in an effect that is not there.
"""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rstar.config import SearchConfig
from rstar.protocols import SamplingConfig
from rstar.seeds import derive
from rstar.selection import SELECTING, Method
from rstar.server.config import ServerConfig
from rstar.server.errors import ApiError, shown
from rstar.solver import Solver
from rstar.strategies import Strategy

IGNORED = frozenset(
    {
        "metadata", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "safety_identifier", "service_tier",
        "store", "user", "verbosity",
    }
)  # fmt: skip
"""They say nothing about the answer itself, or nothing that a search can follow."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (), "best_of": (1,), "echo": (False,), "frequency_penalty": (0,), "function_call": ("none", "auto"),
    "functions": ([],), "logit_bias": ({},), "logprobs": (False, 0), "modalities": (["text"],),
    "parallel_tool_calls": (True, False), "prediction": (), "presence_penalty": (0,), "response_format": ({"type": "text"},),
    "stop": ([],), "suffix": ("",), "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,),
    "web_search_options": (),
}  # fmt: skip
"""Parameters that are refused with any value but these, which have no effect."""

N = TypeVar("N", int, float)
C = TypeVar("C", SearchConfig, SamplingConfig)


class Options(BaseModel, ABC):
    """How to search; everything may be left out, and is then as the server was started."""

    model_config = ConfigDict(strict=True)

    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="decides every random choice")
    temperature: float | None = Field(None, description="of the policy's steps")
    top_p: float | None = Field(None, description="of the policy's steps")
    stream: bool = False
    strategy: Strategy | None = Field(None, strict=False)
    selection: Method | None = Field(None, strict=False, description="how the answer is selected")
    num_rollouts: int | None = Field(None, description="rollouts, samples or beams")
    num_candidates: int | None = Field(None, description="candidates of one expansion")
    seconds: float | None = Field(None, description="answer by then with what is known")
    certainty: float | None = Field(None, description="stop when the vote is decided with this probability")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """Leave out what is null or ignored. Raises ApiError for what is unknown, naming near misses, or unsupported."""
        if not isinstance(values, dict):
            return values
        own = cls.model_fields
        for name, value in values.items():
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                message = f"{name} is {shown(value)}, which a search cannot follow; leave it out"
                raise _wrong("unsupported_parameter", name, message)
            if name not in own and name not in IGNORED and name not in NEUTRAL:
                close = difflib.get_close_matches(name, own, n=2)
                hint = (
                    f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(own))}"
                )
                raise _wrong("unknown_parameter", name, f"unknown parameter {shown(name)}; {hint}")
        return {name: value for name, value in values.items() if name in own and value is not None}

    @abstractmethod
    def token_budget(self) -> int | None:
        """Tokens that a search may sample; None: as the server was started."""

    @abstractmethod
    def questions(self) -> list[str]:
        """What is asked, once for each choice. Raises ApiError if nothing is."""

    def solvers(self, solver: Solver, config: ServerConfig) -> list[tuple[str, Solver]]:
        """Each question with a solver that has these options; equal questions have seeds of their own, the first one that
        was asked for. Raises ApiError or ConfigError for what is out of range or does not fit together."""
        questions = self.questions()
        if len(questions) > config.max_choices:
            allowed = f"this server allows {config.max_choices}"
            raise _out_of_range("n", f"{len(questions)} choices are asked for; {allowed}")
        for name, limit in (("num_rollouts", config.max_rollouts), ("num_candidates", config.max_candidates)):
            if (getattr(self, name) or 0) > limit:
                raise _out_of_range(name, f"{name} is {getattr(self, name)}; this server allows {limit}")
        if self.selection not in (None, *SELECTING):
            raise _out_of_range(
                "selection", f"selection is {self.selection}; it must be one of {', '.join(SELECTING)}"
            )
        solver = self._applied_to(solver, config)
        times: Counter[str] = Counter()
        pairs = []
        for question in questions:
            seed = solver.options.seed
            if times[question]:
                seed = derive(seed, "choice", times[question])
            times[question] += 1
            pairs.append((question, solver.with_options(seed=seed)))
        return pairs

    def _applied_to(self, solver: Solver, config: ServerConfig) -> Solver:
        base = solver.options
        budget = _least(self.token_budget(), base.search.max_tree_tokens)
        sampling = _changed(base.search.sampling, temperature=self.temperature, top_p=self.top_p)
        search = _changed(
            base.search, num_rollouts=self.num_rollouts, num_candidates=self.num_candidates, max_tree_tokens=budget,
            sampling=sampling,
        )  # fmt: skip
        seconds = base.seconds if self.seconds is None else self.seconds
        return solver.with_options(
            **_present(strategy=self.strategy, selection=self.selection, certainty=self.certainty, seed=self.seed),
            search=search, seconds=_least(seconds, config.max_seconds),
        )  # fmt: skip


class StreamOptions(BaseModel):
    """OpenAI's."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Part(BaseModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a conversation. Other fields (name, tool calls of earlier turns) are not read."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class Completing(Options):
    """What OpenAI's two kinds of completion have in common."""

    model: str
    n: int = Field(1, ge=1)
    max_tokens: int | None = None
    stream_options: StreamOptions = StreamOptions()

    def token_budget(self) -> int | None:
        return self.max_tokens

    def check_model(self, config: ServerConfig) -> None:
        """Raise ApiError for a model that is not served."""
        check_model(self.model, config)


class ChatRequest(Completing):
    """`POST /v1/chat/completions`. The question is the last message; a model that continues a solution step by step has no
    place for instructions or earlier turns, so they are not read, and the answer says so (`rstar.ignored`)."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None

    def token_budget(self) -> int | None:
        return _least(self.max_tokens, self.max_completion_tokens)

    def questions(self) -> list[str]:
        last = self.messages[-1]
        if last.role != "user":
            raise ApiError(
                400, f"the last message is of the {last.role}; the question is the last message, of the user",
                param="messages", code="invalid_value",
            )  # fmt: skip
        return [_question(last.text, "messages")] * self.n

    def ignored(self) -> list[str]:
        """What was not read."""
        return [f"messages[{index}] ({message.role})" for index, message in enumerate(self.messages[:-1])]


class CompletionRequest(Completing):
    """`POST /v1/completions`. Each prompt is a question."""

    prompt: str | list[str]

    def questions(self) -> list[str]:
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not prompts:
            raise ApiError(400, "there is no prompt; give at least one", param="prompt", code="invalid_value")
        return [_question(prompt, "prompt") for prompt in prompts for _ in range(self.n)]

    def ignored(self) -> list[str]:
        """What was not read."""
        return []


class SearchRequest(Options):
    """`POST /v1/search`: one question, answered with the whole tree."""

    question: str
    model: str | None = None
    max_tokens: int | None = None

    def token_budget(self) -> int | None:
        return self.max_tokens

    def questions(self) -> list[str]:
        return [_question(self.question, "question")]


def check_model(name: str, config: ServerConfig) -> None:
    """Raise ApiError for a model that is not served."""
    if name != config.model:
        message = f"the model {shown(name)} does not exist; this server has {config.model!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def _question(text: str, param: str) -> str:
    if not text.strip():
        raise ApiError(400, "the question is empty; ask one", param=param, code="invalid_value")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the question is not valid Unicode at character {error.start}"
        raise ApiError(400, message, param=param, code="invalid_value") from None
    return text


def _wrong(code: str, param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def _out_of_range(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")


def _least(*values: N | None) -> N | None:
    return min((value for value in values if value is not None), default=None)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _changed(config: C, **values: Any) -> C:
    """A settings dataclass with the values that are given."""
    return dataclasses.replace(config, **_present(**values))
