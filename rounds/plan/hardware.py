"""GPUs as data, and the shape of a model: what decides memory and speed, without loading anything."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rstar.errors import ConfigError

HERE = Path(__file__).parent
BF16_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU, in the units of `gpus.yaml`."""

    name: str
    memory_gib: float
    bandwidth_gb_s: float
    bf16_tflops: float

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30


@dataclass(frozen=True, slots=True)
class Gpus:
    """So many of one kind."""

    count: int
    kind: Gpu

    def __str__(self) -> str:
        return f"{self.count} x {self.kind.name}"


def known_gpus() -> dict[str, Gpu]:
    """The table, by name."""
    return {name: Gpu(name=name, **values) for name, values in _table("gpus.yaml").items()}


def read_gpus(text: str) -> Gpus:
    """`60xA100-40GB`, or one by its name alone. Raises ConfigError with the near misses."""
    found = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?([\w.-]+)\s*", text)
    known = known_gpus()
    count, name = (int(found[1] or 1), found[2]) if found else (0, text)
    if name not in known or count < 1:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known GPUs: {', '.join(known)}"
        raise ConfigError(f"no GPUs {text!r}; write 8xA100-40GB; {hint}")
    return Gpus(count, known[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides its memory and speed. `active_parameters`: those that one token passes through, fewer than
    all in a mixture of experts."""

    name: str
    parameters: float
    active_parameters: float
    kv_bytes_per_token: float
    """Keys and values of one token, in bfloat16."""
    hidden_size: int
    num_layers: int
    vocab_size: int


def read_shape(folder: Path) -> ModelShape:
    """From the folder's `config.json`, or from `models.yaml` by the folder's name where there is none yet.

    Raises ConfigError for a model that neither knows."""
    config = folder / "config.json"
    if config.is_file():
        return shape_of(folder.name, json.loads(config.read_text(encoding="utf-8")))
    known = _table("models.yaml")
    if folder.name not in known:
        close = difflib.get_close_matches(folder.name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known without a folder: {', '.join(known)}"
        raise ConfigError(f"no model at {folder}: it has no config.json; {hint}")
    return shape_of(folder.name, known[folder.name])


def shape_of(name: str, config: Mapping[str, Any]) -> ModelShape:
    """Of a dense model of Qwen2's and Llama's kind by its configuration; of another one as it is given."""
    try:
        hidden, layers, vocab = (config[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
        if "parameters" in config:
            parameters, active = config["parameters"], config["active_parameters"]
            kv_bytes = config["kv_bytes_per_token"]
        else:
            heads = config["num_attention_heads"]
            size = config.get("head_dim") or hidden // heads
            queries, keys = heads * size, config.get("num_key_value_heads", heads) * size
            biased = config.get("attention_bias", config.get("model_type") == "qwen2")
            attention = 2 * hidden * queries + 2 * hidden * keys + biased * (queries + 2 * keys)
            layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
            embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings") else 2)
            parameters = active = layers * layer + embeddings + hidden
            kv_bytes = 2 * layers * keys * BF16_BYTES
    except KeyError as error:
        raise ConfigError(f"{name}: its config.json has no {error.args[0]}, which a plan needs") from None
    return ModelShape(
        name=name, parameters=parameters, active_parameters=active, kv_bytes_per_token=kv_bytes,
        hidden_size=hidden, num_layers=layers, vocab_size=vocab,
    )  # fmt: skip


@functools.cache
def _table(file: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((HERE / file).read_text(encoding="utf-8"))
    return values
