"""What can go wrong with a request, and what it means: try again, data of one tree, or a setting to change."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping

from rstar.backends.openai.config import OpenAIConfig
from rstar.errors import BackendError, ConfigError

_AWAY = frozenset({408, 425, 429, 502, 503, 504, 529})
"""Statuses of a server, or of what stands before it, that cannot take a request now but will again."""
_OVERFLOW = re.compile(
    r"context[ _]length|maximum context|context window|longer than the maximum|too long|inputs? tokens? \+|max_seq_len",
    re.I,
)
_SETTING_OF_PARAMETER = {
    "logprobs": "set engine.openai.logprobs=false",
    "seed": "set engine.openai.seeds=false",
    "n": "set engine.openai.max_candidates_per_request=1",
    "top_k": "set search.sampling.top_k=0",
    "continue_final_message": "set engine.openai.continuation=quote",
    "token_ids": "set engine.openai.server=other",
    "stream": "this back-end needs a server that streams, or vLLM or SGLang",
}
_WAITS_AT_MOST_S = 300.0


class Unanswered(Exception):
    """A request that may be sent again. `away`: the server takes none at all now."""

    def __init__(self, reason: str, *, away: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.away = away
        self.retry_after_s = retry_after_s


class ContextOverflow(BackendError):
    """The server says that prompt and completion do not fit into the model's context."""


def refusal(status: int, headers: Mapping[str, str], body: str, config: OpenAIConfig) -> Exception:
    """The exception that a reply with an error status stands for."""
    said = error_message(body)
    answer = f"{config.base_url} answers {status}: {said}"
    if status in (401, 403):
        return ConfigError(f"{answer}; {_about_key(config)}")
    if status == 429 and "insufficient_quota" in body:
        return ConfigError(f"{answer}; the account's quota is used up")
    if status in _AWAY or status >= 500:
        return Unanswered(answer, away=status in _AWAY, retry_after_s=retry_after_s(headers))
    if status == 404:
        return ConfigError(
            f"{answer}; base_url ends in /v1 on most servers, engine.openai.model names a model that the server lists, "
            "and a server without /completions needs engine.openai.api=chat"
        )
    if _OVERFLOW.search(said):
        return ContextOverflow(answer)
    for parameter, remedy in _SETTING_OF_PARAMETER.items():
        if re.search(rf"(?<![\w']){parameter}(?![\w'])|['\"`]{parameter}['\"`]", said):
            return ConfigError(f"{answer}; {remedy}")
    return BackendError(answer)


def error_message(body: str) -> str:
    """What an error reply says, in one line."""
    try:
        found = json.loads(body)
    except ValueError:
        found = body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    text = found if isinstance(found, str) else json.dumps(found)
    return " ".join(text.split())[:300] or "nothing"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks to wait, given as a number or as a date; None without."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), _WAITS_AT_MOST_S)


def _about_key(config: OpenAIConfig) -> str:
    if config.api_key_env is None:
        return "name the environment variable that holds a key in engine.openai.api_key_env"
    return f"the key in the environment variable {config.api_key_env} is not accepted"
