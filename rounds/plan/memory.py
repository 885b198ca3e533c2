"""Does a model fit with all that its training or its search keeps? Bytes per GPU, for one GPU and for the ways to share.

Full fine-tuning with AdamW in mixed precision as `rstar.training` does it: weights, gradients and two moments in float32, the
passes in bfloat16. ZeRO-2 shares gradients and moments among GPUs, ZeRO-3 weights too; offload keeps the moments and the
float32 weights in the machine's memory (arXiv:1910.02054, arXiv:2101.06840).
"""

from __future__ import annotations

from dataclasses import dataclass

from rounds.plan.hardware import BF16_BYTES, Gpu, Gpus, ModelShape
from rounds.recipe import RoundRecipe

WEIGHTS, GRADIENTS, MOMENTS = 4, 4, 8
"""Bytes per parameter."""
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

    @property
    def fits(self) -> bool:
        return self.gib <= self.available_gib


def training_memory(
    what: str, model: ModelShape, gpus: Gpus, *, tokens: int, logits: bool, recomputed: bool
) -> list[MemoryNeed]:
    """Of a training with `tokens` per forward pass: on one GPU, shared among up to 8 of them, and with offload.

    `logits`: a language head is trained, whose logits are as wide as the vocabulary."""
    per_layer = BF16_BYTES if recomputed else LAYER_BYTES
    kept = tokens * model.hidden_size * (model.num_layers * per_layer + recomputed * LAYER_BYTES)
    activations = kept + tokens * model.vocab_size * LOGIT_BYTES * logits
    whole = WEIGHTS + GRADIENTS + MOMENTS
    ways = [("one GPU each", float(whole)), ("one GPU, ZeRO offload to memory", float(2 * BF16_BYTES))]
    if (shares := min(gpus.count, GPUS_PER_MACHINE)) > 1:
        ways[1:1] = [
            (f"{shares} GPUs, ZeRO-2", WEIGHTS + (GRADIENTS + MOMENTS) / shares),
            (f"{shares} GPUs, ZeRO-3", whole / shares),
        ]
    return [
        _need(what, way, model.parameters * per_parameter + activations, gpus.kind)
        for way, per_parameter in ways
    ]


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
    policy = training_memory(
        "policy training",
        model,
        gpus,
        tokens=tokens,
        logits=True,
        recomputed=recipe.sft.gradient_checkpointing,
    )
    tokens = max(recipe.ppm.micro_batch_tokens, recipe.ppm.max_length)
    ppm = training_memory(
        "PPM training", model, gpus, tokens=tokens, logits=False, recomputed=recipe.ppm.gradient_checkpointing
    )
    return [*policy, *ppm]


def _need(what: str, way: str, num_bytes: float, gpu: Gpu) -> MemoryNeed:
    return MemoryNeed(what=what, way=way, gib=num_bytes / 2**30 + MARGIN_GIB, available_gib=gpu.memory_gib)
