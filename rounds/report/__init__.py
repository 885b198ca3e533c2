"""The report of a run: what search found, what policy and preference model learned from it, beside the paper's figures.

It reads manifests, outcomes of evaluations and a few stored trees; it computes nothing that a stage did not record, but
the paired differences between models. A section is a function from `RunFacts` to blocks of a page.
"""

from __future__ import annotations

from rounds.page import Page
from rounds.report.ablations import ablations_section
from rounds.report.cost import cost_section
from rounds.report.evaluation import scaling_section, system_section
from rounds.report.facts import RunFacts
from rounds.report.headline import headline_section
from rounds.report.learning import coverage_section, policy_section
from rounds.report.lineage import lineage_section
from rounds.report.preference import preference_section
from rounds.report.samples import samples_section
from rounds.report.search import search_section

SECTIONS = (
    headline_section,
    coverage_section,
    policy_section,
    preference_section,
    system_section,
    scaling_section,
    ablations_section,
    search_section,
    cost_section,
    samples_section,
    lineage_section,
)


def report(facts: RunFacts) -> Page:
    """The page of a run, after its last finished round."""
    rounds = "round 1" if facts.last == 1 else f"rounds 1 to {facts.last}"
    return Page(
        title=f"Self-evolution, {rounds}: {facts.name}",
        subtitle=f"Made by `{facts.command}` on {facts.machine}; seed {facts.seed}.",
        blocks=[block for section in SECTIONS for block in section(facts)],
    )
