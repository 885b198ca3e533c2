"""Run benchmarks one after the other, each in its own process: `python -m benchmarks [NAME ...]` (default: all).

A benchmark is a module of this folder that runs as a script; the others are what benchmarks share. Each says in its
docstring what it measures. Exit status 1 if one of them fails; the others still run. One that measures a finished run of
rounds says so where there is none, and is passed over.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NOTHING_TO_MEASURE = 77
"""Exit status of a benchmark that lacks what it measures."""


def benchmarks() -> list[str]:
    """Names of all benchmarks, in order."""
    scripts = (path for path in sorted(FOLDER.glob("*.py")) if not path.name.startswith("_"))
    return [path.stem for path in scripts if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


def main(names: list[str]) -> int:
    """Run the benchmarks called `names`, or all; 0 if every one succeeded."""
    known = benchmarks()
    if unknown := [name for name in names if name not in known]:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    failed = []
    for name in names or known:
        print(f"\n== benchmarks.{name}", flush=True)
        ran = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent, check=False)
        if ran.returncode not in (0, NOTHING_TO_MEASURE):
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
