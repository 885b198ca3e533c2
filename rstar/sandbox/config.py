"""Settings of the sandbox. Nothing here starts a process."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rstar.errors import ConfigError

CORES_PER_SHARD = 8
"""One shard server costs about 0.4 ms CPU per step, so it keeps about eight cores of steps busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Limits of one step, size of the pool, and what to do on a machine that lacks an isolation layer.

    Raises ConfigError for a value out of range.
    """

    cpu_s: float = 4.0
    """CPU seconds one step may use, > 0. Time-outs, not forks, are what execution costs: keep it at 2-5 s
    (rStar-Math waits 30-60 s for a whole prefix). CPU time, so a loaded host gives no false time-outs."""
    wall_s: float = 12.0
    """Seconds one step may take that it did not spend waiting for a core, > 0: three times `cpu_s`, for steps that
    sleep."""
    memory_mb: int = 1024
    """MiB of address space a trajectory may add to the warmed interpreter, >= 16."""
    max_output_chars: int = 16_384
    """Characters of stdout kept per step, >= 0; `ExecutionResult.truncated_chars` counts the rest."""
    hard_output_chars: int = 4_000_000
    """Characters a step may write to stdout and stderr together before it is stopped with `OUTPUT_LIMIT`."""
    max_code_chars: int = 65_536
    """A longer step is an `ERROR` without being run, in 1..65,536 (it must fit one message)."""
    num_shards: int | None = None
    """Shard servers; None: one per eight cores this process may use."""
    max_running: int | None = None
    """Steps that run at once in one shard, >= 1; the others wait their turn, group by group. None: the cores per
    shard."""
    max_snapshots: int = 2000
    """Paused interpreters per shard, >= 1. The least recently used goes first and is rebuilt by replay when needed.
    A snapshot takes 1 MB after light steps, about 6 MB after sympy work."""
    snapshot_memory_mb: int | None = None
    """MiB that the paused interpreters of all shards may hold together; None: half of the machine's memory."""
    libraries: tuple[str, ...] = ("numpy", "sympy", "mpmath")
    """Installed packages that step code may import besides the standard library. They are warmed in the heavy
    zygote, which runs the histories that name one of them."""
    strict: bool = False
    """Refuse to start on a machine that lacks an isolation layer, instead of warning once."""
    allow_unsafe: bool = False
    """Start even without seccomp, that is, with hardly any isolation. Only for code that you would run yourself."""

    def __post_init__(self) -> None:
        bounds: tuple[tuple[str, float, float], ...] = (
            ("cpu_s", self.cpu_s, 0.01),
            ("wall_s", self.wall_s, 0.01),
            ("memory_mb", self.memory_mb, 16),
            ("max_output_chars", self.max_output_chars, 0),
            ("hard_output_chars", self.hard_output_chars, self.max_output_chars),
            ("max_code_chars", self.max_code_chars, 1),
            ("num_shards", 1 if self.num_shards is None else self.num_shards, 1),
            ("max_running", 1 if self.max_running is None else self.max_running, 1),
            ("max_snapshots", self.max_snapshots, 1),
            ("snapshot_memory_mb", 16 if self.snapshot_memory_mb is None else self.snapshot_memory_mb, 16),
        )
        for name, value, least in bounds:
            if not value >= least:
                raise ConfigError(f"sandbox.{name}={value} is too small; it must be at least {least}")
        if self.max_output_chars > 32_768:
            raise ConfigError(f"sandbox.max_output_chars={self.max_output_chars}; it must be at most 32768")
        if self.max_code_chars > 65_536:
            raise ConfigError(f"sandbox.max_code_chars={self.max_code_chars}; it must be at most 65536")

    @property
    def shards(self) -> int:
        """How many shard servers run."""
        return self.num_shards or max(1, round(available_cores() / CORES_PER_SHARD))

    @property
    def running_per_shard(self) -> int:
        """How many steps run at once in one shard."""
        return self.max_running or max(1, -(-available_cores() // self.shards))

    @property
    def snapshot_bytes_per_shard(self) -> int:
        """Bytes that the paused interpreters of one shard may hold."""
        if self.snapshot_memory_mb is not None:
            return self.snapshot_memory_mb * 2**20 // self.shards
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // self.shards


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
