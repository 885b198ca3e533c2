"""What the run cost, stage by stage: time, tokens, energy where it can be read."""

from __future__ import annotations

from rounds.artifact import Manifest
from rounds.charts.bars import parts
from rounds.charts.canvas import ORM, PAPER, POLICY, PPM, SEARCH
from rounds.page import Block, Figure, Heading, Paragraph, Table
from rounds.report.facts import RunFacts, titled

KINDS = {"search": SEARCH, "policy": POLICY, "preference model": PPM, "evaluation": PAPER, "ablations": ORM}
"""Parts of a bar and their colours."""
_KIND_OF = {
    "sft_set": "policy",
    "pairs": "preference model",
    "ppm": "preference model",
    "search": "search",
    "policy": "policy",
}


def cost_section(facts: RunFacts) -> list[Block]:
    """A bar per round, and the stages in the order in which they ran."""
    stages = {name: manifest for name, manifest in facts.manifests.items() if not name.endswith("report")}
    total = sum(manifest.seconds for manifest in stages.values())
    tokens = sum(manifest.summary.get("tokens") or 0 for manifest in stages.values())
    joules = [manifest.summary.get("joules") for manifest in stages.values()]
    readable = [one for one in joules if one is not None]
    energy = f", and {sum(readable):,.0f} joules of this machine's processors" if readable else ""
    minutes = 60 if total >= 600 else 1
    bars: dict[str, dict[str, float]] = {}
    for name, manifest in stages.items():
        row = bars.setdefault(_row(name), {})
        row[_kind(name)] = row.get(_kind(name), 0.0) + manifest.seconds / minutes
    return [
        Heading("What it cost"),
        Paragraph(
            f"All stages together took {duration(total)}, for {tokens:,} tokens sampled or trained on{energy}. Time is that of "
            f"each stage on the clock; energy {'is of the whole machine' if readable else 'cannot be read on this machine'}."
        ),
        Figure(
            "cost",
            [parts("minutes" if minutes == 60 else "seconds", bars, colours=KINDS)],
            "Time by round and by what it went into.",
        ),
        Table(
            ["stage", "time", "tokens", "tokens/s", "joules"], [_line(name, one) for name, one in stages.items()],
            folded=f"All {len(stages)} stages",
        ),
    ]  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _row(stage: str) -> str:
    first = stage.split("/")[0]
    if first.startswith("round"):
        return titled(first).replace("round", "round ")
    return {"problems": "before", "base": "before"}.get(first, first)


def _kind(stage: str) -> str:
    if stage.startswith("ablations/"):
        return "ablations"
    return _KIND_OF.get(stage.rsplit("/", maxsplit=1)[-1], "evaluation")


def _line(name: str, manifest: Manifest) -> list[str]:
    tokens, joules = manifest.summary.get("tokens"), manifest.summary.get("joules")
    rate = f"{tokens / manifest.seconds:,.0f}" if tokens and manifest.seconds else "–"
    return [
        name, f"{manifest.seconds:,.1f} s", f"{tokens:,}" if tokens else "–", rate, f"{joules:,.0f}" if joules is not None else "–",
    ]  # fmt: skip
