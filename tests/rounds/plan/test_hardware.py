"""GPUs and models are known by name, and a model's size follows from its configuration."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from rounds.plan.hardware import known_gpus, read_gpus, read_shape, shape_of
from rstar.errors import ConfigError


def test_gpus_are_read_by_number_and_name() -> None:
    found = read_gpus("60xA100-40GB")
    assert (found.count, found.kind.memory_gib, found.kind.bandwidth_gb_s) == (60, 40, 1555)
    assert str(found) == "60 x A100-40GB"
    assert read_gpus("RTX-4090").count == 1
    for gpu in known_gpus().values():
        assert 8 <= gpu.memory_gib <= 300
        assert 200 <= gpu.bandwidth_gb_s <= 10_000
        assert 50 <= gpu.bf16_tflops <= 3000


@pytest.mark.parametrize("text", ["8xA100", "A100", "0xA100-40GB", "8 A100-40GB", "", "manyxL4-24GB"])
def test_unknown_gpus_are_one_line_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^no GPUs .*; write 8xA100-40GB; (did you mean|known GPUs)"):
        read_gpus(text)


def test_parameters_of_a_configuration_are_those_of_the_weights(repository: Path) -> None:
    base = repository / "rounds" / "base"
    weights = (base / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    stored = sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    shape = read_shape(base)
    assert shape.parameters == shape.active_parameters == stored
    assert shape.kv_bytes_per_token == 4 * 2 * 2 * 64 * 2  # layers, keys and values, heads, head size, bytes


@pytest.mark.parametrize(("name", "billions"), [("Qwen2.5-Math-7B", 7.616), ("Qwen2.5-Math-1.5B", 1.544)])
def test_known_models_have_the_parameters_that_their_cards_say(name: str, billions: float) -> None:
    assert read_shape(Path("nowhere") / name).parameters / 1e9 == pytest.approx(billions, abs=1e-3)


def test_of_a_mixture_of_experts_a_token_passes_a_part() -> None:
    shape = read_shape(Path("nowhere/DeepSeek-Coder-V2-Instruct"))
    assert shape.parameters > 10 * shape.active_parameters


def test_an_unknown_model_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^no model at x/Qwen2.5-Math-7b: .*did you mean Qwen2.5-Math-7B\?"
    ):
        read_shape(Path("x/Qwen2.5-Math-7b"))
    with pytest.raises(ConfigError, match=r"^odd: its config.json has no num_hidden_layers"):
        shape_of("odd", {"hidden_size": 8})
