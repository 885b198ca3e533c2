"""How fast work is done: by GPUs as their data sheets and the assumptions say, or by this machine as it was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from rounds.plan.assumptions import Assumptions
from rounds.plan.hardware import BF16_BYTES, Gpus, ModelShape
from rounds.plan.workload import SearchWork, TrainingWork
from rstar.errors import ConfigError

BACKWARD_PASSES = 3
"""A forward and a backward pass, in forward passes."""
KV_ROOM = 0.1
"""Share of the models' memory that must be left for keys and values."""


class Rates(Protocol):
    """Seconds of wall time that a machine takes."""

    @property
    def machine(self) -> str: ...

    @property
    def num_gpus(self) -> int: ...

    def search_s(
        self, work: SearchWork, policy: ModelShape, *, guided: bool, rows: int, context: float
    ) -> float:
        """A search with so many candidates decoded at once, per engine, of `context` tokens each. With guidance a
        preference model of the policy's shape lies beside it."""
        ...

    def policy_training_s(self, work: TrainingWork, model: ModelShape, *, recomputed: bool) -> float: ...

    def ppm_training_s(self, work: TrainingWork, model: ModelShape, *, recomputed: bool) -> float: ...


@dataclass(frozen=True, slots=True)
class GpuRates:
    """The roofline of the GPUs, times the shares of it that are assumed to be reached."""

    gpus: Gpus
    assumed: Assumptions

    @property
    def machine(self) -> str:
        return str(self.gpus)

    @property
    def num_gpus(self) -> int:
        return self.gpus.count

    def gpus_per_engine(self, weight_bytes: float) -> int:
        """The fewest, doubling, that hold the weights and leave room. Raises ConfigError if all together do not."""
        per_gpu = self.gpus.kind.memory_bytes * self.assumed.gpu_memory_share
        needed = 1 << max(0, math.ceil(math.log2(weight_bytes * (1 + KV_ROOM) / per_gpu)))
        if needed > self.gpus.count:
            raise ConfigError(
                f"the model's {weight_bytes / 2**30:,.0f} GiB of weights do not fit on {self.gpus}; it takes {needed}"
            )
        return needed

    def batch_rows(self, policy: ModelShape, *, guided: bool, rows: int, context: float) -> int:
        """Candidates decoded at once by one engine: `rows`, or as many as there is memory for."""
        weights = policy.parameters * BF16_BYTES * (1 + guided)
        memory = self.gpus.kind.memory_bytes * self.assumed.gpu_memory_share * self.gpus_per_engine(weights)
        return max(1, min(rows, int((memory - weights) / (context * policy.kv_bytes_per_token))))

    def decode_tokens_per_s(self, policy: ModelShape, *, guided: bool, rows: int, context: float) -> float:
        """Of one engine: every token reads the weights once per batch and its own context, and passes the parameters."""
        gpus = self.gpus_per_engine(policy.parameters * BF16_BYTES * (1 + guided))
        batch = self.batch_rows(policy, guided=guided, rows=rows, context=context)
        read = policy.parameters * BF16_BYTES + batch * context * policy.kv_bytes_per_token
        read_s = read / (gpus * self.gpus.kind.bandwidth_gb_s * 1e9 * self.assumed.bandwidth_share)
        return batch / (read_s + batch * self.pass_s(policy, gpus))

    def search_s(
        self, work: SearchWork, policy: ModelShape, *, guided: bool, rows: int, context: float
    ) -> float:
        per_engine = self.gpus_per_engine(policy.parameters * BF16_BYTES * (1 + guided))
        engines = self.gpus.count // per_engine
        rate = self.decode_tokens_per_s(policy, guided=guided, rows=rows, context=context)
        uncached = 1 - self.assumed.cached_share
        read = work.prefix_tokens * uncached
        if guided:
            read += work.scored_tokens + work.expansions * context * uncached
        engine_s = (work.tokens / rate + read * self.pass_s(policy, per_engine)) / engines
        sandbox_s = (
            work.executions * self.assumed.execution_cpu_s / (self.gpus.count * self.assumed.cores_per_gpu)
        )
        return max(engine_s, sandbox_s) / self.assumed.utilisation

    def policy_training_s(self, work: TrainingWork, model: ModelShape, *, recomputed: bool) -> float:
        passes = BACKWARD_PASSES + recomputed
        flops = 2 * passes * model.active_parameters * work.tokens
        peak = self.gpus.count * self.gpus.kind.bf16_tflops * 1e12
        return flops / (peak * self.assumed.training_flops_share)

    def ppm_training_s(self, work: TrainingWork, model: ModelShape, *, recomputed: bool) -> float:
        return self.policy_training_s(work, model, recomputed=recomputed)

    def pass_s(self, model: ModelShape, gpus: int) -> float:
        """Of one token through the parameters, forward, among many."""
        peak = gpus * self.gpus.kind.bf16_tflops * 1e12
        return 2 * model.active_parameters / (peak * self.assumed.flops_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRates:
    """What a calibration measured on one machine; `count` of them share the work evenly."""

    machine: str
    search_tokens_per_s: float
    """Sampled, in a whole search with sandbox and grader beside it, with nothing but waiting left out."""
    guided_tokens_per_s: float
    """Likewise with a preference model."""
    policy_examples_per_s: float
    ppm_pairs_per_s: float
    start_s: float
    """Before a search begins: engines, sandbox, grader."""
    count: int = 1

    @property
    def num_gpus(self) -> int:
        return self.count

    def search_s(
        self, work: SearchWork, policy: ModelShape, *, guided: bool, rows: int, context: float
    ) -> float:
        rate = self.guided_tokens_per_s if guided else self.search_tokens_per_s
        return self.start_s + work.tokens / rate / self.count

    def policy_training_s(self, work: TrainingWork, model: ModelShape, *, recomputed: bool) -> float:
        return work.samples / self.policy_examples_per_s / self.count

    def ppm_training_s(self, work: TrainingWork, model: ModelShape, *, recomputed: bool) -> float:
        return work.samples / self.ppm_pairs_per_s / self.count
