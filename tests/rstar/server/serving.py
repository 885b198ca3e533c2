"""A real server in a thread, over scripted policies, and what tests ask it with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

from rstar import SearchConfig, Solver
from rstar.backends.scripted import ChainWorld, ScriptedPolicy
from rstar.protocols import Candidate, ProposeRequest
from rstar.sandbox import SandboxConfig
from rstar.server.config import ServerConfig
from rstar.server.running import in_thread

WORLD = ChainWorld(num_operations=3)
PERFECT = ChainWorld(num_operations=2, slip=0.0, crash=0.0, nonsense=0.0)
SMALL = SearchConfig(num_rollouts=2, num_candidates=3)
ENDLESS = SearchConfig(num_rollouts=200, num_candidates=2, max_depth=30)
ONE_SHARD = SandboxConfig(num_shards=1)
KEY = "a key"


class GatedPolicy(ScriptedPolicy):
    """Answers when it is let; counts the requests that it was given, and those that were cancelled."""

    def __init__(self, world: ChainWorld) -> None:
        super().__init__(world.respond)
        self.open = False
        self.asked = 0
        self.cancelled = 0

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        self.asked += 1
        try:
            while not self.open:  # noqa: ASYNC110 - set from another thread, whose events asyncio lacks
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().propose(request)


@contextmanager
def serving(
    policy: ScriptedPolicy,
    *,
    search: SearchConfig = SMALL,
    solver: dict[str, Any] | None = None,
    **config: Any,
) -> Iterator[str]:
    """The address of a server that is ready."""
    with (
        Solver(policy, search=search, sandbox=ONE_SHARD, **(solver or {})) as opened,
        in_thread(opened, ServerConfig(**{"port": 0, **config})) as url,
    ):
        until(lambda: get(f"{url}/health").status_code == 200)
        yield url


def client(url: str, **arguments: Any) -> Any:
    """OpenAI's own client, which does not ask again; untyped, because requests here are plain JSON, also wrong ones."""
    closing = {"Connection": "close"}  # nobody closes the client: no connection may outlive its answer
    own = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "default_headers": closing}
    return openai.OpenAI(**{**own, **arguments})


def chat(question: str, **parameters: Any) -> dict[str, Any]:
    """Arguments of a chat completion."""
    return {"model": "rstar", "messages": [{"role": "user", "content": question}], **parameters}


def get(url: str, **arguments: Any) -> httpx2.Response:
    """A page. A machine that is busy with other tests may take its time."""
    return httpx2.get(url, timeout=250, verify=False, **arguments)


def until(holds: Callable[[], bool], *, seconds: float = 120) -> None:
    """Wait; AssertionError if it never holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def metric(url: str, name: str, **labels: str) -> float:
    """A number from /metrics; 0 if there is none yet."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(get(f"{url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())
