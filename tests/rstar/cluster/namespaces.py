"""Machines for tests: network namespaces of this one, joined by a virtual cable, each with an address of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")
PORT = 6399
STARTS = 3
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}
"""Of everything in a namespace: nodes and drivers with the cluster's token."""


@dataclass(frozen=True)
class Machine:
    """A network namespace."""

    name: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs in it."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def start_ray(self, *arguments: str) -> None:
        """Start a Ray node with one CPU in it. Ray gives itself 30 s for that, which a busy machine may exceed."""
        small = ["--num-cpus", "1", "--num-gpus", "0", "--object-store-memory", str(100 << 20)]
        command = self.command(str(RAY), "start", "--node-ip-address", self.address, *small, *arguments)
        for _ in range(STARTS):
            ran = subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=ENVIRONMENT
            )
            if ran.returncode == 0:
                return
            self.kill()
        raise AssertionError(ran.stdout + ran.stderr)

    def pids(self) -> list[int]:
        """Of all processes in it."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return [int(line) for line in listed.stdout.split()]

    def kill(self) -> None:
        """Pull the plug: every process at once."""
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def missing() -> str:
    """Why there can be no namespaces here; empty if there can."""
    name = f"probe-{uuid.uuid4().hex[:6]}"
    try:
        ran = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    except FileNotFoundError:
        return "no `ip` on this machine"
    if ran.returncode:
        return f"no permission for network namespaces: {ran.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two namespaces that reach each other and nothing else; what runs in them is killed at the end."""
    tag = uuid.uuid4().hex[:6]
    machines = Machine(f"rstar-{tag}-a", "10.77.0.1"), Machine(f"rstar-{tag}-b", "10.77.0.2")
    with ExitStack() as stack:
        for machine in machines:
            _ip("netns", "add", machine.name)
            stack.callback(_ip, "netns", "del", machine.name)
            stack.callback(machine.kill)
        ends = [f"v{tag}{end}" for end in "ab"]
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for machine, end in zip(machines, ends, strict=True):
            _ip("link", "set", end, "netns", machine.name)
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", end)
            _ip("-n", machine.name, "link", "set", end, "up")
            _ip("-n", machine.name, "link", "set", "lo", "up")
        yield machines


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
