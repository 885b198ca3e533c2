"""The server's event loop: descriptors and what to call when they can be read."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable


class Events:
    """A thin epoll loop. Handlers take no arguments and read what is there without blocking."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}

    def watch(self, descriptor: int, handler: Callable[[], object]) -> None:
        """Call `handler` whenever `descriptor` can be read or has ended."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.EPOLLIN)

    def watches(self, item: socket.socket) -> bool:
        """Whether an open socket is watched."""
        return item.fileno() in self._handlers

    def also_writable(self, descriptor: int, wanted: bool) -> None:
        """Call its handler also when it can be written, or no longer."""
        self._poll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def unwatch(self, item: socket.socket) -> None:
        """No longer; unwatched and closed sockets are fine."""
        if self._handlers.pop(item.fileno(), None) is not None:
            self._poll.unregister(item.fileno())

    def turn(self, timeout_s: float) -> None:
        """Wait for events (-1: for ever) and handle them."""
        for descriptor, _ in self._poll.poll(timeout_s):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler()
