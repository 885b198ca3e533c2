"""What a preparation leaves beside the problems it wrote: a report (JSON), and every problem left out (JSONL)."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rounds.artifact import write_json
from rounds.preparation.config import PreparationConfig
from rounds.preparation.prepare import Prepared
from rstar.config import to_plain
from rstar.problems import Problem

SCHEMA_VERSION = 1
SHOWN_GRAMS = 10
"""Runs of words shared with the evaluation set that the report lists, most frequent first."""


def report(
    prepared: Prepared,
    config: PreparationConfig,
    *,
    pools: Sequence[str],
    against: Sequence[str],
    num_evaluation: int,
) -> dict[str, Any]:
    """Counts in, out and by reason; by source and level; the settings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "pools": list(pools),
        "against": list(against),
        "settings": to_plain(config),
        "problems_in": len(prepared.problems) + len(prepared.drops),
        "evaluation_problems": num_evaluation,
        "problems_kept": len(prepared.problems),
        "dropped": prepared.counts(),
        "dropped_by_source": _by_source(prepared),
        "kept_by_source": _counts(prepared.problems, "source"),
        "kept_by_level": _counts(prepared.problems, "level"),
        "common_ngrams": dict(prepared.common_grams.most_common(SHOWN_GRAMS)),
    }


def write_report(out: Path, prepared: Prepared, values: dict[str, Any]) -> tuple[Path, Path]:
    """Write `<out>.report.json` and `<out>.dropped.jsonl` beside the file `out`; returns their paths."""
    dropped = out.with_name(f"{out.stem}.dropped.jsonl")
    with dropped.open("w", encoding="utf-8", newline="\n") as file:
        for drop in prepared.drops:
            file.write(json.dumps(dataclasses.asdict(drop)) + "\n")
    written = out.with_name(f"{out.stem}.report.json")
    write_json(written, values)
    return written, dropped


def _by_source(prepared: Prepared) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for drop in prepared.drops:
        found.setdefault(drop.source, Counter())[str(drop.reason)] += 1
    return {source: dict(counts) for source, counts in sorted(found.items())}


def _counts(problems: Sequence[Problem], field: str) -> dict[str, int]:
    return dict(sorted(Counter(str(getattr(problem, field)) or "-" for problem in problems).items()))
