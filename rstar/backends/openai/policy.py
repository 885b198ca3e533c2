"""A model behind any server that speaks OpenAI's API as a policy.

Where the server takes token ids (vLLM, SGLang) this is exact: the ids that were sampled are the ids of the candidates.
Elsewhere the model's folder gives a tokenizer, any that suits, and candidates are what it makes of the texts.

What this file does not cover: sending and trying again (`client`), what servers differ in (`dialects`), replies
(`replies`), chats (`chat`).
"""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rstar import logs
from rstar.backends.loading import context_tokens
from rstar.backends.openai.chat import read_chat, undress, write_chat
from rstar.backends.openai.client import Client, Read
from rstar.backends.openai.config import Api, OpenAIConfig, Server
from rstar.backends.openai.dialects import body, detect, dialect_of, quotes
from rstar.backends.openai.failures import ContextOverflow
from rstar.backends.openai.replies import Completion, Reply, cut, streamed, whole
from rstar.backends.stats import Totals
from rstar.backends.tokenizer import ModelTokenizer
from rstar.errors import BackendError, ConfigError
from rstar.evaluation import together
from rstar.protocols import Candidate, FinishReason, ProposeRequest
from rstar.seeds import derive

SAMPLE = "# Step 1: half of 48 is\nhalf = 48 / 2\n<end_of_step>\nprint(half)  # ½\n"
"""A text on which tokenizers show whether they agree, and lose nothing."""
NAMES_SHOWN = 10
_CLOSED = "this policy back-end is closed"
_LARGEST_SEED = 1 << 31
_NOTHING = Candidate(text="", token_ids=(), logprobs=(), finish_reason=FinishReason.LENGTH)
events = logs.events(__name__)


@dataclass(slots=True)
class ServerStats(Totals):
    """Running totals of what one policy asked of its server; cached tokens as far as the server tells."""

    num_requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Served:
    """What the server turned out to be."""

    server: Server
    model: str
    max_context_tokens: int


class OpenAIPolicy:
    """A `PolicyBackend` over an OpenAI-compatible server. Belongs to the event loop that first awaits it.

    `model`: a folder with a config.json and a tokenizer. Where the server takes token ids it must be the tokenizer of the
    model that is served, which is checked; elsewhere any that loses nothing does, such as that of the model to be trained.

    Raises ConfigError with one line if folder, tokenizer or key are missing.
    """

    def __init__(self, model: str | os.PathLike[str], config: OpenAIConfig) -> None:
        self._folder = Path(model)
        self._config = config
        self._tokenizer = ModelTokenizer(self._folder)
        self._client = Client(config)
        self._starting = asyncio.Lock()
        self._found: _Served | None = None
        self._most_at_once = config.max_candidates_per_request
        self._without_logprobs = False
        self._closed = False
        self._working: set[asyncio.Future[list[Candidate]]] = set()
        self._stats = ServerStats()

    @property
    def max_context_tokens(self) -> int:
        """Tokens of prefix and completion together; what the server says once it has been asked."""
        return self._context(None) if self._found is None else self._found.max_context_tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added (those that the text spells out are found)."""
        return self._tokenizer.encode(text)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages in the model's chat template; for the chat API written down as messages, whose template the server has."""
        return write_chat(messages) if self._config.api is Api.CHAT else self._tokenizer.render_chat(messages)

    def stats(self) -> ServerStats:
        """Totals so far."""
        return self._stats

    @property
    def num_retries(self) -> int:
        """Requests sent again so far."""
        return self._client.num_retries

    async def start(self) -> None:
        """Ask the server what it serves; `propose` does it by itself.

        Raises ConfigError if there is no such server, if it does not serve the model or refuses the key, or if it has
        another tokenizer or a shorter context.
        """
        async with self._starting:
            if self._found is None:
                self._found = await self._examine()

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        """The candidates, by index. A prefix that fills the context gets empty ones with `FinishReason.LENGTH`.

        Raises BackendError for an empty prefix, ids outside the vocabulary, or a server that does not answer in spite of
        all retries; ConfigError for what no retry mends.
        """
        if self._closed:
            raise BackendError(_CLOSED)
        work = asyncio.ensure_future(self._propose(request))
        self._working.add(work)
        try:
            return await work
        except asyncio.CancelledError:
            if self._closed:
                raise BackendError(_CLOSED) from None
            raise
        finally:
            self._working.discard(work)

    async def _propose(self, request: ProposeRequest) -> list[Candidate]:
        await self.start()
        self._tokenizer.check_prefix(request.prefix_ids)
        max_tokens = min(request.sampling.max_step_tokens, self.max_context_tokens - len(request.prefix_ids))
        if max_tokens <= 0:
            return [_NOTHING] * request.num_candidates
        if request.sampling.temperature == 0:  # all are equal, and vLLM refuses to sample more than one
            return await self._ask(request, 1, max_tokens, first=0) * request.num_candidates
        found: list[Candidate] = []
        while (missing := request.num_candidates - len(found)) > 0:
            at_once = min(missing, self._most_at_once or missing)
            parts = [
                self._ask(request, min(at_once, missing - begin), max_tokens, first=len(found) + begin)
                for begin in range(0, missing, at_once)
            ]
            answered = await together(parts)
            found += [candidate for candidates in answered for candidate in candidates]
            if len(found) < request.num_candidates and self._most_at_once is None:
                self._most_at_once = 1
                events.warning(
                    "server ignores n", server=self._config.base_url, asked=at_once, given=len(answered[0])
                )
        return found

    async def aclose(self) -> None:
        """Close the connections; requests still waiting raise BackendError."""
        self._closed = True
        for work in self._working:
            work.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._client.aclose()

    @property
    def _served(self) -> _Served:
        assert self._found is not None, "the policy is started"
        return self._found

    async def _ask(
        self, request: ProposeRequest, num_candidates: int, max_tokens: int, *, first: int
    ) -> list[Candidate]:
        """At most `num_candidates` candidates in one request, the first of which is number `first`."""
        dialect, chatting = dialect_of(self._served.server), self._config.api is Api.CHAT
        prompt: Sequence[int] | str | list[dict[str, str]] = request.prefix_ids
        answer = ""
        if chatting:
            chat = read_chat(self._tokenizer.decode(request.prefix_ids))
            answer = chat.answer
            prompt = chat.quoted() if quotes(self._config, self._served.server) else chat.prefilled()
        elif not dialect.token_ids:
            prompt = self._tokenizer.decode(request.prefix_ids)
        fields = body(
            request, config=self._config, server=self._served.server, model=self._served.model, prompt=prompt,
            num_candidates=num_candidates, max_tokens=max_tokens,
            seed=derive(request.seed, "openai", first) % _LARGEST_SEED,
        )  # fmt: skip
        read: Read[Reply] = (
            whole
            if dialect.keeps_stop
            else partial(streamed, num_candidates=num_candidates, stop=request.stop)
        )
        reserved = len(request.prefix_ids) + num_candidates * max_tokens
        try:
            path = "/chat/completions" if chatting else "/completions"
            reply = await self._client.ask(path, fields, read, num_tokens=reserved)
        except ContextOverflow as error:
            if dialect.token_ids and not chatting:
                raise ConfigError(
                    f"{error}; set engine.openai.max_context_tokens to what it serves"
                ) from None
            return [_NOTHING] * num_candidates  # our count of its tokens is an estimate
        if not reply.completions:
            raise BackendError(f"{self._config.base_url} answers without a completion")
        candidates = [self._candidate(c, request.stop, answer) for c in reply.completions[:num_candidates]]
        self._count(reply, candidates, len(request.prefix_ids), reserved)
        return candidates

    def _candidate(self, completion: Completion, stop: tuple[str, ...], answer: str) -> Candidate:
        ids, text = completion.token_ids, completion.text
        if ids is not None:
            text = cut(self._tokenizer.decode(ids), stop)
        else:
            text = undress(text, answer) if self._config.api is Api.CHAT else text
            ids = tuple(self._tokenizer.encode(text))
        assert completion.finish_reason is not None
        return Candidate(
            text=text,
            token_ids=ids,
            logprobs=self._logprobs(completion.logprobs, len(ids)),
            finish_reason=completion.finish_reason,
        )

    def _logprobs(self, given: list[float], num_tokens: int) -> tuple[float, ...]:
        """One per token: the server's where it counts the tokens as we do, else their mean for each; 0 without any."""
        if len(given) == num_tokens:
            return tuple(given)
        if given:
            return (sum(given) / len(given),) * num_tokens
        if self._config.logprobs and num_tokens and not self._without_logprobs:
            self._without_logprobs = True
            events.warning("server gives no log-probabilities", server=self._config.base_url)
        return (0.0,) * num_tokens

    def _count(self, reply: Reply, candidates: Sequence[Candidate], num_prompt: int, reserved: int) -> None:
        generated = sum(len(candidate.token_ids) for candidate in candidates)
        prompt = reply.prompt_tokens or num_prompt
        self._stats += ServerStats(1, prompt, reply.cached_tokens, generated)
        self._client.give_back(max(0, reserved - prompt - generated))

    async def _examine(self) -> _Served:
        listed = await self._client.get("/models")
        models = listed.get("data") if isinstance(listed, Mapping) else None
        if not isinstance(models, list) or not all(isinstance(m, Mapping) and "id" in m for m in models):
            raise ConfigError(
                f"{self._config.base_url}/models answers, but not with a list of models: is this an OpenAI-compatible "
                "server, and does engine.openai.base_url end in /v1?"
            )
        model = _choose(self._config, models)
        server = self._config.server
        if server is Server.AUTO:
            server = detect(model.get("owned_by"))
        if dialect_of(server).token_ids and self._config.api is Api.COMPLETIONS:
            await self._same_tokenizer(str(model["id"]))
        elif self._tokenizer.decode(self._tokenizer.encode(SAMPLE)) != SAMPLE:
            raise ConfigError(
                f"the tokenizer in {self._folder} does not give back the text that it was given; use another"
            )
        return _Served(server, str(model["id"]), self._context(model.get("max_model_len")))

    async def _same_tokenizer(self, model: str) -> None:
        """Raises ConfigError if the server reads a text as other tokens than the folder's tokenizer."""
        asked = {"model": model, "prompt": SAMPLE, "add_special_tokens": False}
        answer = await self._client.post_at_root("/tokenize", asked)
        if isinstance(answer, Mapping) and "tokens" in answer and answer["tokens"] != self.encode(SAMPLE):
            raise ConfigError(
                f"{model} at {self._config.base_url} has another tokenizer than the folder {self._folder}; give the folder of "
                "the model that is served (its tokenizer and config.json are enough)"
            )

    def _context(self, served: object) -> int:
        asked = self._config.max_context_tokens
        if isinstance(served, int):
            if asked is not None and asked > served:
                raise ConfigError(
                    f"engine.openai.max_context_tokens is {asked}, but {self._config.base_url} serves {served}"
                )
            return asked or served
        return asked or context_tokens(self._folder, None)


def _choose(config: OpenAIConfig, models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The model that is meant, of those that the server lists. Raises ConfigError that names them."""
    names = [str(model["id"]) for model in models]
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    if config.model is None:
        if len(models) == 1:
            return models[0]
        raise ConfigError(
            f"{config.base_url} serves {shown or 'no model'}; choose one with engine.openai.model"
        )
    if config.model in names:
        return models[names.index(config.model)]
    close = difflib.get_close_matches(config.model, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it serves {shown or 'none'}"
    raise ConfigError(f"{config.base_url} serves no model {config.model!r}; {hint}")
