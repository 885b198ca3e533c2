"""What clients get: answers and steps in OpenAI's shapes, whole or as server-sent events.

All that OpenAI's shapes have no place for is under one key of each choice, `rstar`. The content of a message is one
solution, the answer's own, whether it is streamed or not; steps on the way to it are told as `reasoning_content`.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rstar.answers import Answer, StepsFound, StopReason
from rstar.server.door import unless_gone
from rstar.server.errors import dumps
from rstar.steps import StepKind, without_tags
from rstar.tree import Tree

CUT_SHORT = frozenset({StopReason.TOKENS, StopReason.SECONDS, StopReason.INTERRUPTED})
"""Searches that ended before they had done what they were asked for: `finish_reason` is "length"."""
DONE = "data: [DONE]\n\n"
"""How OpenAI's streams end."""


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """How one kind of completion is written down."""

    prefix: str
    """Of ids."""
    whole: str
    """`object` of a response."""
    piece: str
    """`object` of a streamed one."""

    @abstractmethod
    def choice(self, index: int, text: str, finish_reason: str, extra: dict[str, Any]) -> dict[str, Any]:
        """One choice of a response."""

    @abstractmethod
    def delta(self, index: int, *, finish_reason: str | None = None, **parts: Any) -> dict[str, Any]:
        """One choice of a chunk; parts are `text`, `reasoning_content` and `rstar`."""


class ChatShape(Shape):
    """`/v1/chat/completions`."""

    def choice(self, index: int, text: str, finish_reason: str, extra: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": index, "message": message, "logprobs": None, "finish_reason": finish_reason, "rstar": extra,
        }  # fmt: skip

    def delta(self, index: int, *, finish_reason: str | None = None, **parts: Any) -> dict[str, Any]:
        extra = {"rstar": parts.pop("rstar")} if "rstar" in parts else {}
        if "text" in parts:
            parts["content"] = parts.pop("text")
        return {
            "index": index, "delta": parts, "logprobs": None, "finish_reason": finish_reason, **extra,
        }  # fmt: skip


class TextShape(Shape):
    """`/v1/completions`."""

    def choice(self, index: int, text: str, finish_reason: str, extra: dict[str, Any]) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason,
            "rstar": extra,
        }

    def delta(self, index: int, *, finish_reason: str | None = None, **parts: Any) -> dict[str, Any]:
        parts.pop("role", None)
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason, **parts}


CHAT = ChatShape(prefix="chatcmpl", whole="chat.completion", piece="chat.completion.chunk")
TEXT = TextShape(prefix="cmpl", whole="text_completion", piece="text_completion")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One response in the making."""

    shape: Shape
    model: str
    ignored: Sequence[str] = ()
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response, a choice per answer."""
        return {
            **self._head(self.shape.whole),
            "choices": [
                self.shape.choice(index, solution(answer), finish_reason(answer), self._extra(answer))
                for index, answer in enumerate(answers)
            ],
            "usage": usage(answers),
        }

    def begin(self, count: int) -> Iterator[str]:
        """The first chunks: who speaks."""
        if isinstance(self.shape, ChatShape):
            yield from (
                self._chunk(self.shape.delta(index, role="assistant", text="")) for index in range(count)
            )

    def steps(self, index: int, event: StepsFound) -> str:
        """The chunk of steps that were found."""
        extra = {"parent": event.parent, "steps": steps(event)}
        return self._chunk(self.shape.delta(index, reasoning_content=thought(event), rstar=extra))

    def end(self, index: int, answer: Answer) -> Iterator[str]:
        """The last chunks of a choice: its content, then why it ended."""
        yield self._chunk(self.shape.delta(index, text=solution(answer)))
        yield self._chunk(
            self.shape.delta(index, finish_reason=finish_reason(answer), rstar=self._extra(answer))
        )

    def usage(self, answers: Sequence[Answer]) -> str:
        """The chunk of the counts."""
        return sse({**self._head(self.shape.piece), "choices": [], "usage": usage(answers)})

    def _chunk(self, choice: dict[str, Any]) -> str:
        return sse({**self._head(self.shape.piece), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _extra(self, answer: Answer) -> dict[str, Any]:
        return {**answer.plain(), "ignored": list(self.ignored)}


def new_id(prefix: str) -> str:
    """An id that nobody guesses."""
    return f"{prefix}-{uuid4().hex}"


def sse(data: dict[str, Any], event: str | None = None) -> str:
    """One server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {dumps(data)}\n\n"


def finish_reason(answer: Answer) -> str:
    """In OpenAI's words."""
    return "length" if answer.stopped_by in CUT_SHORT else "stop"


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens. Completion tokens are all that were sampled; reasoning tokens those of them that are not in a solution."""
    prompt = sum(answer.cost.prompt_tokens for answer in answers)
    sampled = sum(answer.cost.tokens for answer in answers)
    shown = sum(_solution_tokens(answer) for answer in answers)
    return {
        "prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled,
        "completion_tokens_details": {"reasoning_tokens": sampled - shown},
    }  # fmt: skip


def solution(answer: Answer) -> str:
    """The answer's solution as Markdown: program, output, and the sentence with `\\boxed{}`. Why there is none if it abstains."""
    if answer.trajectory is None:
        return f"No answer: {answer.reason}."
    tree, ids = answer.tree, answer.trajectory.node_ids
    program = "\n".join(without_tags(tree.nodes[node_id].text) for node_id in ids[:-1])
    output = tree.program_output(ids[-1]).strip()
    parts = [
        _fenced(program, "python"),
        _fenced(output, "") if output else "",
        without_tags(tree.nodes[ids[-1]].text),
    ]
    return "\n\n".join(part for part in parts if part)


def thought(event: StepsFound) -> str:
    """New steps that run, as text."""
    nodes = [event.tree.nodes[node_id] for node_id in event.node_ids]
    parts = []
    for node in nodes:
        if node.live:
            parts.append(without_tags(node.text))
            if node.kind is not StepKind.ANSWER and node.stdout.strip():
                parts.append(node.stdout.strip())
    return "".join(f"{part}\n\n" for part in parts)


def steps(event: StepsFound) -> list[dict[str, Any]]:
    """New steps with all that is known of them, failed ones among them."""
    return [step(event.tree, node_id) for node_id in event.node_ids]


def step(tree: Tree, node_id: int) -> dict[str, Any]:
    """One step. `score` is the preference model's, `samples` how many candidates were this step."""
    node = tree.nodes[node_id]
    return {
        "id": node_id, "parent": node.parent, "depth": node.depth, "text": node.text,
        "kind": node.kind and str(node.kind), "execution": str(node.execution), "stdout": node.stdout, "error": node.error,
        "terminal": node.terminal and str(node.terminal), "answer": node.answer, "score": node.initial_value,
        "samples": node.multiplicity,
    }  # fmt: skip


class EventStream(StreamingResponse):
    """Server-sent events. If the client goes, or the stream ends otherwise, what makes the events is closed at once, and
    so is `held`."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], held: ExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events, self._held = events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""

        async def all_events() -> None:
            async with aclosing(self._events):
                await self.stream_response(send)

        with self._held, suppress(ClientDisconnect, OSError):  # nobody is left to be told
            await unless_gone(receive, all_events())


def _fenced(text: str, language: str) -> str:
    """A Markdown block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _solution_tokens(answer: Answer) -> int:
    if answer.trajectory is None:
        return 0
    return sum(len(answer.tree.nodes[node_id].token_ids) for node_id in answer.trajectory.node_ids)
