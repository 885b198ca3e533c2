"""Tiny random models with a small byte-level BPE tokenizer, made in the test's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rstar.steps import TAGS

EOS = "<|endoftext|>"
TEXTS = (
    "# Step 1: add the apples that Tom bought\napples = 16 + 3 * 4\n<end_of_step>",
    "# Step 2: print the total number of pears\ntotal = apples // 2 - 7\nprint(total)\n<end_of_code>",
    "<answer>The answer is \\boxed{48}<end_of_answer>",
    "A train goes 120 km in 3 hours; how far does it go in 7 hours at the same speed?",
)


def train_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """Byte-level, exact round trip; the tags of the step format are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large enough that distributions are far from uniform
}


def save_model(folder: Path, kind: str = "qwen2", **changes: Any) -> Path:
    """A random model of this kind and its tokenizer in `folder`."""
    tokenizer = train_tokenizer()
    eos = tokenizer.convert_tokens_to_ids(EOS)
    sizes = {**_SIZES, "vocab_size": len(tokenizer), "eos_token_id": eos, "bos_token_id": eos, **changes}
    torch.manual_seed(0)
    model: Any
    match kind:
        case "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**{"num_key_value_heads": 2, **sizes}))
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**{"num_key_value_heads": 4, **sizes}))
        case "gpt_neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))
        case "mistral":
            model = MistralForCausalLM(
                MistralConfig(**{"num_key_value_heads": 1, "sliding_window": 32, **sizes})
            )
        case "mamba":
            model = MambaForCausalLM(
                MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2)
            )
        case _:
            raise ValueError(kind)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_vllm_model(folder: Path, **changes: Any) -> Path:
    """A random model whose heads have a width that vLLM's attention on a CPU takes."""
    return save_model(
        folder, **{"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, **changes}
    )
