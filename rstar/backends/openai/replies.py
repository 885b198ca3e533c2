"""From a server's reply to completions: whole JSON, or a stream that is read only up to the first stop text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from rstar.backends.openai.client import read_json, read_stream
from rstar.backends.openai.failures import Unanswered
from rstar.protocols import FinishReason

_BROKEN_OFF = frozenset({"abort", "error"})


@dataclass(slots=True)
class Completion:
    """What one choice of a reply says. `token_ids` is None where the server gave none; `logprobs` may be empty."""

    text: str = ""
    token_ids: tuple[int, ...] | None = None
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    """None: not ended yet."""


@dataclass(slots=True)
class Reply:
    """The completions of one request, by index, and what the server counted."""

    completions: list[Completion]
    prompt_tokens: int = 0
    cached_tokens: int = 0


async def whole(response: httpx2.Response) -> Reply:
    """A reply that comes in one piece, its stop texts left in. Raises Unanswered if it is not one."""
    answer = await read_json(response)
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        usage = answer.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            [_completion(choice, response) for choice in choices],
            prompt_tokens=usage.get("prompt_tokens") or 0,
            cached_tokens=details.get("cached_tokens") or 0,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _malformed(response, error) from None


async def streamed(response: httpx2.Response, *, num_candidates: int, stop: Sequence[str]) -> Reply:
    """A reply read as it comes, each completion up to and with its first stop text, and no further than all have one.

    Raises Unanswered if the stream is not one, or breaks off.
    """
    completions: dict[int, Completion] = {}
    longest = max((len(text) for text in stop), default=0)
    try:
        async for event in read_stream(response):
            for choice in event.get("choices") or ():
                completion = completions.setdefault(choice.get("index", 0), Completion())
                if completion.finish_reason is None:
                    _append(completion, choice, stop, longest)
            if len(completions) == num_candidates and all(c.finish_reason for c in completions.values()):
                break
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _malformed(response, error) from None
    if not completions or any(c.finish_reason is None for c in completions.values()):
        raise Unanswered(f"{response.url} broke off its stream", away=False)
    return Reply([completions[index] for index in sorted(completions)])


def cut(text: str, stop: Sequence[str], *, searched: int = 0) -> str:
    """`text` up to the end of the stop text that ends first; its first `searched` characters hold none."""
    ends = [at + len(one) for one in stop if (at := text.find(one, searched)) >= 0]
    return text[: min(ends)] if ends else text


def _append(completion: Completion, choice: dict[str, Any], stop: Sequence[str], longest: int) -> None:
    delta = choice["text"] if "text" in choice else (choice.get("delta") or {}).get("content")
    searched = max(0, len(completion.text) - longest)
    completion.text += delta or ""
    completion.logprobs += _logprobs(choice)
    if (kept := cut(completion.text, stop, searched=searched)) != completion.text or kept.endswith(
        tuple(stop)
    ):
        completion.text = kept
        completion.finish_reason = FinishReason.STOP
    elif reason := choice.get("finish_reason"):
        completion.finish_reason = _finish_reason(reason)


def _completion(choice: dict[str, Any], response: httpx2.Response) -> Completion:
    if choice.get("finish_reason") in _BROKEN_OFF:
        raise Unanswered(f"{response.url} broke off a completion", away=False)
    ids = choice.get("token_ids")
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    return Completion(
        text=text or "",
        token_ids=None if ids is None else tuple(int(i) for i in ids),
        logprobs=_logprobs(choice),
        finish_reason=_finish_reason(choice.get("finish_reason")),
    )


def _finish_reason(reason: object) -> FinishReason:
    return FinishReason.LENGTH if reason == "length" else FinishReason.STOP


def _logprobs(choice: dict[str, Any]) -> list[float]:
    """One number per sampled token, of either API; none where the server gives none."""
    found = choice.get("logprobs") or {}
    if "token_logprobs" in found:
        values = found["token_logprobs"] or []
    else:
        values = [token["logprob"] for token in found.get("content") or []]
    return [float(value) for value in values if value is not None]


def _malformed(response: httpx2.Response, error: Exception) -> Unanswered:
    return Unanswered(
        f"{response.url} answers what is no completion ({type(error).__name__}: {error})", away=False
    )
