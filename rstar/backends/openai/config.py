"""Settings of a policy behind an OpenAI-compatible server."""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import Any

from rstar.config import require, to_plain

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


_DECISIVE = ("model", "api", "server", "continuation", "max_context_tokens", "seeds")


class Api(StrEnum):
    """Which of the API's two ways to ask for text."""

    COMPLETIONS = "completions"
    """`/completions`: the model continues the prompt, as token ids where the server takes them."""
    CHAT = "chat"
    """`/chat/completions`: for servers that have nothing else. Needs a chat prompt format, such as `few-shot-chat`."""


class Server(StrEnum):
    """What the server understands beyond OpenAI's API."""

    AUTO = "auto"
    """What its model list says of itself: vLLM and SGLang do."""
    VLLM = "vllm"
    SGLANG = "sglang"
    OTHER = "other"
    """Nothing: TGI, hosted APIs. Prompts are text, replies are streamed, and cut here at the first stop text."""


class Continuation(StrEnum):
    """How a chat is asked for the next step, given the steps so far."""

    AUTO = "auto"
    """`prefill` on vLLM and SGLang, else `quote`."""
    PREFILL = "prefill"
    """The steps so far are the beginning of the assistant's message, which the model goes on with."""
    QUOTE = "quote"
    """The steps so far stand in the user's message, with a request for the next one: works everywhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenAIConfig:
    """Where the server is, what it understands, and how long it is waited for."""

    base_url: str = "http://127.0.0.1:8000/v1"
    """Up to and without `/completions`."""
    model: str | None = None
    """As the server lists it; null: the only one that it lists."""
    api: Api = Api.COMPLETIONS
    server: Server = Server.AUTO
    continuation: Continuation = Continuation.AUTO
    """Of `api: chat` alone."""
    api_key_env: str | None = None
    """Environment variable that holds the key; null: none is sent. The key itself is never a setting."""
    max_context_tokens: int | None = None
    """Prompt and completion together, counted by the tokenizer of the model's folder; null: what the server says, else
    what the folder's config.json says."""
    max_candidates_per_request: int | None = None
    """The API's `n`; null: all candidates of an expansion at once. A server that answers with fewer is asked again."""
    seeds: bool = True
    """Send a seed. Without, no search can be repeated."""
    logprobs: bool = True
    """Ask for log-probabilities. Without, all are 0: PUCT then has equal priors, UCT does not read them."""
    max_concurrency: int = 256
    """Requests at a time."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompt and completion, `max_step_tokens` each, as hosted APIs count; null: no limit."""
    timeout_s: float = 600.0
    """For one reply."""
    max_retries: int = 5
    """Of a request that the server fails to answer: an internal error, a time-out, a broken reply."""
    outage_s: float = 600.0
    """How long requests wait for a server that is gone, starting or busy (429), before they fail."""

    def __post_init__(self) -> None:
        url = self.base_url
        require(url.startswith(("http://", "https://")), "base_url", url, "an http:// or https:// address")
        for name in (
            "max_context_tokens",
            "max_candidates_per_request",
            "requests_per_minute",
            "tokens_per_minute",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1, or null")
        require(self.max_concurrency >= 1, "max_concurrency", self.max_concurrency, "at least 1")
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")
        require(self.max_retries >= 0, "max_retries", self.max_retries, "at least 0")
        require(self.outage_s >= 0, "outage_s", self.outage_s, "at least 0")
        # What is no variable's name is most likely the key, so it is not shown.
        key = self.api_key_env
        require(
            key is None or _VARIABLE.fullmatch(key) is not None,
            "api_key_env", "...", "the name of an environment variable, never the key itself",
        )  # fmt: skip

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what is answered, as plain values; the others decide how fast."""
        return {name: to_plain(getattr(self, name)) for name in _DECISIVE}
