"""Settings of the server. Nothing here imports a web framework."""

from __future__ import annotations

from dataclasses import dataclass

from rstar.config import require

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where the server listens, whom it lets in, and what one request may ask for. All limits are ours.

    Raises ConfigError for a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    api_key: str | None = None
    """What clients must send as bearer token; None: nothing."""
    model: str = "rstar"
    """Name under which clients ask for the solver."""
    max_searches: int = 16
    """Searches at once; each choice of a request is one."""
    max_waiting: int = 256
    """Searches that wait for their turn; a request beyond that is refused (429)."""
    max_wait_s: float = 120.0
    """A search that has waited so long is given up (503)."""
    max_seconds: float = 300.0
    """Deadline of every search; a request may ask for an earlier one."""
    max_choices: int = 16
    """Choices of one request: `n` times the number of prompts."""
    max_rollouts: int = 256
    max_candidates: int = 64
    max_body_bytes: int = 1 << 20
    max_body_s: float = 30.0
    """A request whose body takes longer to arrive is refused (408)."""
    kept_trees: int = 64
    """Searches whose trees can be looked at after they have ended."""
    shutdown_s: float = 30.0
    """So long a stopping server waits for clients to take their answers."""

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "port", self.port, "in 0..65535")
        require(self.api_key != "", "api_key", self.api_key, "a text, or null")
        require(self.model != "", "model", self.model, "a name")
        for name in ("max_waiting", "kept_trees"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        counts = ("max_searches", "max_choices", "max_rollouts", "max_candidates", "max_body_bytes")
        for name in counts:
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_wait_s", "max_seconds", "max_body_s", "shutdown_s"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")

    @property
    def open_to_all(self) -> bool:
        """Other machines reach it, and it asks nobody for a key."""
        return self.api_key is None and self.host not in LOOPBACK
