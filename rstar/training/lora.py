"""Low-rank adapters in a model, and the plain weights that they come to (LoRA, arXiv:2106.09685; adapters by peft).

What this file does not cover: training them, which is the Trainer's as for all weights.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from rstar.errors import ConfigError
from rstar.training.config import LoRAConfig

_BASE, _IN, _OUT = ".base_layer.", ".lora_A.default.", ".lora_B.default."
"""How peft names, below a layer, its own weights and those of its adapter."""


def add_adapters(
    model: nn.Module, config: LoRAConfig, *, head: nn.Module | None, trained_head: bool, seed: int
) -> None:
    """Put adapters beside the linear layers of `model`, in place, and freeze everything else; the adapters' product
    starts at 0. The `head` has none; with `trained_head` it is trained whole.

    Raises ConfigError if a target module is no linear layer of the model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [
        name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in config.target_modules:
        if target not in known:
            raise ConfigError(f"lora.target_modules has {target!r}; the model's are {', '.join(known)}")
    targets = config.target_modules or tuple(known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(
            LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=[name for name in linear if name.rpartition(".")[2] in targets],
            ),
            model,
        )
    if head is not None and trained_head:
        head.requires_grad_(True)


def merged(state: dict[str, Tensor], config: LoRAConfig) -> dict[str, Tensor]:
    """A model's weights by name with each adapter added to its layer: weight + alpha / rank · B A, names as without
    adapters."""
    plain = {
        name.replace(_BASE, "."): tensor
        for name, tensor in state.items()
        if _IN not in name and _OUT not in name
    }
    for name, down in state.items():
        if _IN in name:
            up = state[name.replace(_IN, _OUT)]
            layer = re.sub(re.escape(_IN), ".", name)
            weight = plain[layer]
            product = up.float() @ down.float() * (config.alpha / config.rank)
            plain[layer] = (weight.float() + product).to(weight.dtype)
    return plain
