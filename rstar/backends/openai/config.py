"""Settings of a policy behind an OpenAI-compatible server."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenAIConfig:
    """Where the server is and what it calls the model."""

    base_url: str = "http://127.0.0.1:8000/v1"
