"""Does a model fit with all that its training or its search keeps? Bytes per GPU, the recipe's way and others to share.

Full fine-tuning with AdamW as `rstar.training` does it keeps 16 bytes per parameter: weights, gradients and two moments in
float32, or under DeepSpeed weights and gradients in bfloat16, beside a float32 copy and the moments. ZeRO-1 shares the last
two among GPUs, ZeRO-2 gradients too, ZeRO-3 all; offload keeps them in the machine's memory (arXiv:1910.02054,
arXiv:2101.06840). Of weights that are frozen under adapters nothing else is kept; the adapters themselves are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from rounds.plan.hardware import BF16_BYTES, Gpu, Gpus, ModelShape
from rounds.recipe import RoundRecipe
from rstar.training import zero
from rstar.training.config import TrainingConfig

ALONE = 16
"""Bytes per parameter, without DeepSpeed."""
WEIGHTS, GRADIENTS, OPTIMISER = 2, 2, 12
"""Bytes per parameter, with it."""
LAYER_BYTES = 34
"""Of activations per token, layer and hidden number, without recomputing them (arXiv:2205.05198, section 4.1; attention
itself left out, which fused kernels do not keep)."""
LOGIT_BYTES = 8
"""Per token and vocabulary entry: float32 logits and their gradient."""
GPUS_PER_MACHINE = 8
MARGIN_GIB = 1.5
"""Of the runtime and of fragments, per GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What one way to run something takes of each GPU, and whether there is so much."""

    what: str
    way: str
    gib: float
    available_gib: float
    chosen: bool = False
    """The recipe's own way."""

    @property
    def fits(self) -> bool:
        return self.gib <= self.available_gib


def training_memory(
    what: str, model: ModelShape, gpus: Gpus, config: TrainingConfig, *, tokens: int, logits: bool
) -> list[MemoryNeed]:
    """Of a training with `tokens` per forward pass: as `config` says, then on one GPU, shared among up to 8 of them, and
    with offload.

    `logits`: a language head is trained, whose logits are as wide as the vocabulary. Raises ConfigError if `config` names a
    DeepSpeed file that is none."""
    recomputed = config.gradient_checkpointing
    per_layer = BF16_BYTES if recomputed else LAYER_BYTES
    kept = tokens * model.hidden_size * (model.num_layers * per_layer + recomputed * LAYER_BYTES)
    activations = kept + tokens * model.vocab_size * LOGIT_BYTES * logits
    content = None if config.deepspeed is None else zero.resolve(config.deepspeed)
    processes = config.num_processes or 1
    own = _way(processes, content)
    ways = {own: _bytes(processes, content, frozen=config.lora is not None)}
    ways.setdefault(_way(1, None), ALONE)
    if (shares := min(gpus.count, GPUS_PER_MACHINE)) > 1:
        for preset in ("zero2", "zero3"):
            ways.setdefault(_way(shares, zero.resolve(preset)), _bytes(shares, zero.resolve(preset)))
    offload = zero.resolve("zero2-offload")
    ways.setdefault(_way(1, offload), _bytes(1, offload))
    return [
        _need(what, way, model.parameters * per_parameter + activations, gpus.kind, chosen=way == own)
        for way, per_parameter in ways.items()
    ]


def _way(processes: int, content: zero.Content | None) -> str:
    several = f"{processes} GPUs" if processes > 1 else "one GPU"
    if content is None:
        return f"{several}, each with all" if processes > 1 else "one GPU each"
    offloaded = zero.offloads_optimizer(content)
    if offloaded and processes == 1:
        return "one GPU, ZeRO offload to memory"
    return f"{several}, ZeRO-{zero.stage(content)}{' with offload' if offloaded else ''}"


def _bytes(processes: int, content: zero.Content | None, *, frozen: bool = False) -> float:
    """Per parameter, on each GPU."""
    stage = 0 if content is None else zero.stage(content)
    sharing = {} if content is None else content["zero_optimization"]
    weights = 0 if "offload_param" in sharing else WEIGHTS / (processes if stage == 3 else 1)
    if frozen:
        return weights
    if content is None:
        return ALONE
    gradients = GRADIENTS / (processes if stage >= 2 else 1)
    optimiser = OPTIMISER / (processes if stage >= 1 else 1)
    return weights + gradients + (0 if zero.offloads_optimizer(content) else optimiser)


def search_memory(
    what: str, policy: ModelShape, gpus: Gpus, per_engine: int, *, guided: bool, rows: int, context: float
) -> MemoryNeed:
    """Of an engine over `per_engine` GPUs: weights, those of a preference model, keys and values of the whole batch."""
    weights = policy.parameters * BF16_BYTES * (1 + guided)
    way = f"{per_engine} GPU(s) an engine, {rows} candidates at once"
    return _need(what, way, (weights + rows * context * policy.kv_bytes_per_token) / per_engine, gpus.kind)


def recipe_memory(recipe: RoundRecipe, model: ModelShape, gpus: Gpus) -> list[MemoryNeed]:
    """Of a round's two trainings."""
    tokens = recipe.sft.micro_batch_size * recipe.sft.max_length
    policy = training_memory("policy training", model, gpus, recipe.sft, tokens=tokens, logits=True)
    tokens = max(recipe.ppm.micro_batch_tokens, recipe.ppm.max_length)
    return [*policy, *training_memory("PPM training", model, gpus, recipe.ppm, tokens=tokens, logits=False)]


def _need(what: str, way: str, num_bytes: float, gpu: Gpu, *, chosen: bool = False) -> MemoryNeed:
    gib = num_bytes / 2**30 + MARGIN_GIB
    return MemoryNeed(what=what, way=way, gib=gib, available_gib=gpu.memory_gib, chosen=chosen)
