"""The machines of a training: how many processes each runs, and how a command is started on it."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from rstar.errors import ConfigError

LOCAL = "localhost"
_LINE = re.compile(r"(?P<host>\S+)\s+slots\s*=\s*(?P<slots>\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
    """Machines with one file system: the training's folder and this program are at the same paths on all of them."""

    slots: Mapping[str, int]
    """Name or address of a machine to how many processes it runs. The others connect to the first."""
    remote_shell: tuple[str, ...] = ("ssh", "-o", "BatchMode=yes")
    """A command that, followed by a name and a command line as one argument, runs the line in a shell of that machine, as
    ssh does: with its standard input passed on, and its exit status returned."""
    port: int | None = None
    """Where the first machine listens; null: a port that is free on this machine."""

    def __post_init__(self) -> None:
        if not self.slots:
            raise ConfigError("hosts has no machine; it must have one at least")
        for host, slots in self.slots.items():
            if slots < 1:
                raise ConfigError(f"hosts: {host} has {slots} slots; it must be at least 1")

    @property
    def num_processes(self) -> int:
        """Over all machines."""
        return sum(self.slots.values())

    @property
    def address(self) -> str:
        """Of the first machine, as the others see it."""
        first = next(iter(self.slots))
        return "127.0.0.1" if len(self.slots) == 1 and self.is_here(first) else first

    def is_here(self, host: str) -> bool:
        """The machine is this one: it needs no remote shell."""
        return host in (LOCAL, "127.0.0.1", socket.gethostname())


def read_host_file(path: Path) -> Hosts:
    """Machines in DeepSpeed's format: a line `name slots=8` each; # begins a comment. Raises ConfigError, one line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"host_file: {path} cannot be read: {error}") from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise ConfigError(f"{path}, line {number}: {text!r} is no machine; write: name slots=8")
        if found["host"] in slots:
            raise ConfigError(f"{path}, line {number}: {found['host']} is named twice")
        slots[found["host"]] = int(found["slots"])
    if not slots:
        raise ConfigError(f"host_file: {path} names no machine; write a line each: name slots=8")
    return Hosts(slots=slots)
