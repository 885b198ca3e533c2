"""Energy used by this machine's processor packages, where the kernel lets it be read (Intel RAPL's counters)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules since it was made. Counts the whole machine, other programs included. None where nothing is readable."""

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._powercap = powercap
        self._start = dict(self._read())

    def joules(self) -> float | None:
        """Joules since the start, over all packages; a counter that wrapped around once is put right."""
        if not self._start:
            return None
        total = 0
        for package, now in self._read():
            before = self._start.get(package)
            if before is None:
                continue
            used = now - before
            total += used if used >= 0 else used + int((package / "max_energy_range_uj").read_text())
        return total / 1e6

    def _read(self) -> Iterator[tuple[Path, int]]:
        for package in sorted(self._powercap.glob("intel-rapl:?")):
            try:
                yield package, int((package / "energy_uj").read_text())
            except (OSError, ValueError):
                continue
