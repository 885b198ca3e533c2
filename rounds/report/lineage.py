"""Where every model came from, down to hashes of weights and data, and that no held-out problem was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rounds.artifact import Manifest
from rounds.page import Block, Heading, Paragraph, Table
from rounds.report.facts import RunFacts, listed
from rounds.training import earlier

SHOWN = 12
"""Hexadecimal digits of a hash."""
WEIGHTS = "model.safetensors"
UNHASHED = ("lock", "progress.json")
"""Ends of names of files that say nothing of the data."""


def lineage_section(facts: RunFacts) -> list[Block]:
    """Models, the contamination check, all stages, versions."""
    last = facts.manifests[f"round{facts.last}/policy"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(last.versions.items()))
    stages = [
        [name, one.fingerprint, str(one.seed), ", ".join(f"{k} {v[:8]}" for k, v in sorted(one.inputs.items())) or "–"]
        for name, one in facts.manifests.items()
    ]  # fmt: skip
    return [
        Heading("Where it came from"),
        Paragraph(
            f"Every model can be traced to the settings, the seed and the data that made it; the seed of the run is {facts.seed}. "
            f"{_contamination(facts)}"
        ),
        Table(
            ["model", "trained from", "on", "hash of the data", "hash of the weights", "seed"], _models(facts)
        ),
        Paragraph(
            "A fingerprint covers a stage's settings, its seed and the fingerprints of its inputs: equal fingerprints, equal "
            "results. The base model's hash covers its configuration, too.",
            note=True,
        ),
        Table(["stage", "fingerprint", "seed", "inputs"], stages, folded=f"All {len(stages)} stages"),
        Paragraph(versions, note=True),
    ]


def _models(facts: RunFacts) -> list[list[str]]:
    base = facts.manifests["round1/policy"].inputs["base"]
    rows = [["base", "–", "–", "–", base[:SHOWN], "–"]]
    for index in facts.rounds:
        sft_set, policy, ppm = (
            facts.manifests[f"round{index}/{stage}"] for stage in ("sft_set", "policy", "ppm")
        )
        examples = f"{sft_set.summary['examples']:,} solutions of round {index}'s search"
        drawn = [*(one for one in facts.rounds if earlier("pairs", one) in ppm.inputs), index]
        pair_sets = [facts.manifests[f"round{one}/pairs"] for one in drawn]
        num_pairs = sum(sum(one.summary["pairs"].values()) for one in pair_sets)
        whose = (
            f"round {index}'s search"
            if drawn == [index]
            else f"the searches of rounds {listed([*map(str, drawn)])}"
        )
        rows += [
            [f"r{index}", "base", examples, data_hash([sft_set]), _weights(policy), str(policy.seed)],
            [f"PPM r{index}", f"r{index}", f"{num_pairs:,} pairs of {whose}", data_hash(pair_sets), _weights(ppm), str(ppm.seed)],
        ]  # fmt: skip
    return rows


def _weights(manifest: Manifest) -> str:
    return manifest.outputs.get(WEIGHTS, "–")[:SHOWN]


def data_hash(manifests: Sequence[Manifest]) -> str:
    """One hash over the files that some stages made."""
    files = [
        {name: digest for name, digest in one.outputs.items() if not name.endswith(UNHASHED)}
        for one in manifests
    ]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:SHOWN]


def _contamination(facts: RunFacts) -> str:
    checks = [
        one.summary["contamination"] for one in facts.manifests.values() if "contamination" in one.summary
    ]
    problems = facts.summary("problems")
    counts = {name: sum(problems[name].values()) for name in ("train", "evaluation")}
    checked = (
        f"Contamination check: of {counts['evaluation']:,} held-out and {counts['train']:,} training questions, compared but for "
        f"case, white space and Unicode form, {problems['contaminated']:,} are in both"
    )
    if not checks:
        return f"{checked}."
    shared = sum(check["both"] for check in checks)
    return (
        f"{checked}; each of {len(checks)} evaluations by search compared its own again and found {shared:,}."
    )
