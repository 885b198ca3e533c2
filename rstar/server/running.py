"""A server that runs: its socket, its signals, its end."""

from __future__ import annotations

import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from rstar.errors import ConfigError
from rstar.server.app import create_app
from rstar.server.config import ServerConfig
from rstar.server.service import Service
from rstar.solver import Solver


class Server(uvicorn.Server):
    """Serves a solver over a socket that listens already; the solver is the caller's to close."""

    def __init__(self, solver: Solver, config: ServerConfig) -> None:
        self.service = Service(solver, config, on_failure=self._leave)
        super().__init__(
            uvicorn.Config(
                create_app(self.service), log_level="warning", access_log=False, server_header=False,
                timeout_graceful_shutdown=math.ceil(config.shutdown_s),
            )
        )  # fmt: skip

    def _leave(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Have searches answer with what they know, wait until the answers are taken, then end."""
        self.service.stop()
        await super().shutdown(sockets)


def serve(solver: Solver, config: ServerConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is told the address. Closes the solver.

    Raises ConfigError for an address that cannot be had, or as `Solver.open`.
    """
    with listening(config) as listener, solver:
        server = Server(solver, config)
        # Uvicorn raises the signal that ended it again, for the handlers that were there before its own.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        announce(address(listener))
        server.run([listener])
        if server.service.failure is not None:
            raise server.service.failure


@contextmanager
def in_thread(solver: Solver, config: ServerConfig) -> Iterator[str]:
    """A server in a thread of this process while this is open; gives its address. For tests, notebooks and measurements."""
    with listening(config) as listener:
        server = Server(solver, config)
        thread = threading.Thread(target=server.run, args=([listener],), name="rstar-server")
        thread.start()
        try:
            yield address(listener)
        finally:
            server.should_exit = True
            thread.join()


def listening(config: ServerConfig) -> socket.socket:
    """A socket at the address of the settings. Raises ConfigError if that cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {config.host} port {config.port}: {error.strerror}; take another --host or --port"
        ) from None


def address(listener: socket.socket) -> str:
    """Where it listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
