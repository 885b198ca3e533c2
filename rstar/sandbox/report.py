"""What isolates step code on this machine, and what does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """One isolation layer."""

    name: str
    held: bool
    consequence: str
    """What its absence means, in one line."""
    reason: str = ""
    """Why it is missing, where that is known."""


@dataclass(frozen=True, slots=True)
class IsolationReport:
    """The layers of a started sandbox, each proved by a probe that ran as a step."""

    layers: tuple[Layer, ...]

    @property
    def missing(self) -> tuple[Layer, ...]:
        """The layers that do not hold."""
        return tuple(layer for layer in self.layers if not layer.held)

    @property
    def complete(self) -> bool:
        """Whether every layer holds."""
        return not self.missing

    def rows(self) -> list[tuple[str, str, str]]:
        """(layer, "held" or "missing", consequence of its absence with the reason): a table for people."""
        return [
            (
                layer.name,
                "held" if layer.held else "missing",
                "" if layer.held else layer.consequence + (f" ({layer.reason})" if layer.reason else ""),
            )
            for layer in self.layers
        ]

    def warning(self) -> str:
        """The missing layers in one line; empty if there are none."""
        if self.complete:
            return ""
        return "sandbox: " + "; ".join(f"no {row[0]}: {row[2]}" for row in self.rows() if row[1] == "missing")
