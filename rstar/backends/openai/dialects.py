"""What a request to each kind of server looks like, and what it takes beyond OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rstar.backends.openai.config import Api, Continuation, OpenAIConfig, Server
from rstar.protocols import ProposeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A kind of server."""

    token_ids: bool = False
    """Prompts as token ids, and the ids of completions back."""
    keeps_stop: bool = False
    """Stops at a stop text and leaves it in the completion. Others cut it off and do not say which it was, so they are not
    told: their replies are streamed and ended here."""
    prefill: bool = False
    """Goes on with an assistant's message that has begun."""
    completions: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of `/completions`: nothing that the model's own generation settings would change unasked."""
    chat: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of `/chat/completions`."""


_VLLM = {
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "repetition_penalty": 1.0,
    "min_p": 0.0,
}
_SGLANG = {"no_stop_trim": True, "skip_special_tokens": False, "repetition_penalty": 1.0, "min_p": 0.0}
_DIALECTS = {
    Server.VLLM: Dialect(
        token_ids=True,
        keeps_stop=True,
        prefill=True,
        completions={**_VLLM, "return_token_ids": True},
        chat=_VLLM,
    ),
    Server.SGLANG: Dialect(
        token_ids=True,
        keeps_stop=True,
        prefill=True,
        completions={**_SGLANG, "return_token_ids": True},
        chat=_SGLANG,
    ),
    Server.OTHER: Dialect(),
}
_OFF = {Server.VLLM: 0, Server.SGLANG: -1}
"""How a server is told that `top_k` is off; the others are not told."""


def dialect_of(server: Server) -> Dialect:
    """What a kind of server takes."""
    return _DIALECTS[server]


def detect(owned_by: object) -> Server:
    """The kind of server that a model list's `owned_by` gives away."""
    return Server(owned_by) if owned_by in ("vllm", "sglang") else Server.OTHER


def body(
    request: ProposeRequest,
    *,
    config: OpenAIConfig,
    server: Server,
    model: str,
    prompt: Sequence[int] | str | Sequence[Mapping[str, str]],
    num_candidates: int,
    max_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The request's JSON. `prompt`: token ids or text for completions, messages for a chat."""
    dialect, sampling, chat = _DIALECTS[server], request.sampling, config.api is Api.CHAT
    fields: dict[str, Any] = {
        "model": model,
        "messages" if chat else "prompt": list(prompt) if not isinstance(prompt, str) else prompt,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **(dialect.chat if chat else dialect.completions),
    }
    if num_candidates > 1:
        fields["n"] = num_candidates
    if sampling.top_k or server in _OFF:
        fields["top_k"] = sampling.top_k or _OFF[server]
    if config.seeds:
        fields["seed"] = seed
    if config.logprobs:
        fields["logprobs"] = True if chat else 1
    if dialect.keeps_stop:
        fields["stop"] = list(request.stop)
    else:
        fields["stream"] = True
    if chat and dialect.prefill and not quotes(config, server):
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def quotes(config: OpenAIConfig, server: Server) -> bool:
    """Whether a chat quotes the steps so far in the user's message."""
    if config.continuation is Continuation.AUTO:
        return not _DIALECTS[server].prefill
    return config.continuation is Continuation.QUOTE
