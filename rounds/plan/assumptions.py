"""What a plan takes for granted, each with where it is from. `rstar plan --assume KEY=VALUE` changes one; `--calibrate`
measures most of them."""

from __future__ import annotations

import dataclasses

from rounds.published import COVERAGE
from rstar.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Of problems and policy, of machines, of training. Means over all problems."""

    prompt_tokens: float = 120
    """Question and format. [the paper's published examples: 200 characters a question]"""
    steps_per_solution: float = 6
    """Depth at which a path ends. [published trajectories: 5.0 steps; those of hard problems are longer]"""
    tokens_per_step: float = 50
    """[published trajectories: 161 characters a step]"""
    equal_share: float = 0.1
    """Share of the candidates that are equal to a sibling. [ours]"""
    executed_share: float = 0.85
    """Share of the distinct candidates that are executed: no answers, nothing that does not parse. [ours]"""
    coverage: dict[str, float] = dataclasses.field(
        default_factory=lambda: {str(index): levels["all"] for index, levels in COVERAGE.items()}
    )
    """Round to share of problems with a correct trace; the rest gets the further rollouts of `unsolved`. [paper, table 2]"""
    solutions_per_problem: float = 2
    """Examples that a solved problem gives, at most `sft_set.num_per_problem`. [paper]"""
    pairs_per_tree: float = 6
    """Preference pairs, over all trees. [ours: the embedded curriculum gives 2 to 8]"""
    tokens_per_pair: float = 150
    """Computed per pair, with what is shared computed once. [ours]"""
    cached_share: float = 0.85
    """Of the tokens of prefixes, those that the prefix cache has. [aim, benchmarks/RESULTS.md]"""
    bandwidth_share: float = 0.6
    """Of the memory bandwidth, reached when decoding. [ours]"""
    flops_share: float = 0.5
    """Of the peak, reached when reading prefixes and scoring. [ours]"""
    training_flops_share: float = 0.35
    """Of the peak, reached in training. [ours]"""
    utilisation: float = 0.9
    """Of the engines' time, used. [aim; the simulation, docs/plan.md, says more]"""
    gpu_memory_share: float = 0.9
    """Of a GPU's memory, given to models and their keys and values. [vLLM's default]"""
    cores_per_gpu: float = 8
    """For sandbox, grader and search. [ours]"""
    execution_cpu_s: float = 0.007
    """CPU time of one executed step. [benchmarks.bench_sandbox, mixed work]"""
    bytes_per_node: float = 120
    """In the store. [benchmarks.bench_store: 29 to 44 with tokens of short steps; ours for steps of 50 tokens]"""
    evaluation_problems: float = 6000
    """Where the recipe's files are not there. [the paper's seven sets: 5,767]"""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_share") or field.name == "utilisation":
                lowest = field.name in ("equal_share", "cached_share")
                holds = 0 <= value <= 1 if lowest else 0 < value <= 1
                require(holds, field.name, value, "a share in [0, 1]" if lowest else "a share in (0, 1]")
            elif isinstance(value, dict):
                for index, share in value.items():
                    require(0 <= share <= 1, f"{field.name}.{index}", share, "a share in [0, 1]")
            else:
                require(value > 0, field.name, value, "above 0")
