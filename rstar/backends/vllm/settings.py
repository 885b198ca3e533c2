"""A model folder becomes a vLLM engine, or one clear line about what is wrong with it or with the settings.

Each engine has a process of its own: of two engines in one process, closing one breaks the other. vLLM itself then starts
no further process, but for the ranks of tensor parallelism.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar.backends.loading import check_dtype, eos_ids, one_line, read_config, read_tokenizer
from rstar.errors import ConfigError

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

    from rstar.backends.vllm.config import VLLMConfig
    from rstar.backends.vllm.engine import VLLMEngine

CPU_BLOCK_SIZE = 32
"""The least that vLLM's attention on a CPU takes; a smaller block wastes less of the prefix cache."""
CPU_KV_CACHE_MB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMSettings:
    """What vLLM is started with, for a policy or a preference model. Survives pickling; imports no vLLM.

    `memory_share` is of a GPU's memory; `max_rows` bounds the sequences in one step.
    """

    model: Path
    dtype: str
    tensor_parallel: int
    memory_share: float
    max_rows: int
    max_model_len: int
    kv_cache_mb: int | None
    block_size: int | None
    enforce_eager: bool

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.dtype == "float64":
            raise ConfigError("dtype is float64, in which vLLM does not compute; float32 is the widest")

    def start(self, **arguments: Any) -> LLMEngine:
        """vLLM in this process. Raises ConfigError with one line if it does not start."""
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        on_cpu = current_platform.is_cpu()
        kv_cache_mb = self.kv_cache_mb or (CPU_KV_CACHE_MB if on_cpu else None)
        if on_cpu or self.block_size is not None:
            arguments["block_size"] = self.block_size or CPU_BLOCK_SIZE
        if on_cpu:  # a prompt in chunks ends the engine where its request has a seed: "CPU Generator does not use offset"
            arguments["enable_chunked_prefill"] = False
        try:
            return LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(self.model),
                    dtype=self._own_dtype(),
                    tensor_parallel_size=self.tensor_parallel,
                    # Ranks are processes of this machine, also where Ray has started this one.
                    distributed_executor_backend="mp" if self.tensor_parallel > 1 else None,
                    gpu_memory_utilization=self.memory_share,
                    max_num_seqs=self.max_rows,
                    max_model_len=self.max_model_len,
                    kv_cache_memory_bytes=None if kv_cache_mb is None else kv_cache_mb << 20,
                    enforce_eager=self.enforce_eager or on_cpu,
                    enable_prefix_caching=True,
                    use_tqdm_on_load=False,
                    disable_log_stats=True,
                    **arguments,
                )
            )
        except Exception as error:  # vLLM, torch and the driver each have their own
            raise ConfigError(
                f"model folder {self.model}: vLLM does not start: {_reason(error)}; see docs/vllm.md"
            ) from error

    def _own_dtype(self) -> str:
        """The numbers to compute in; for "auto" those of the checkpoint (vLLM's own "auto" narrows float32)."""
        if self.dtype != "auto":
            return self.dtype
        own = getattr(read_config(self.model), "dtype", None)
        return "auto" if own is None else str(own).removeprefix("torch.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """What a policy's engine is built from."""

    llm: LLMSettings
    device: str = "vllm"

    def load(self) -> VLLMEngine:
        """Raises ConfigError with one line if vLLM does not start with this model."""
        from rstar.backends.stops import TextDecoder
        from rstar.backends.vllm.engine import VLLMEngine

        return VLLMEngine(
            self.llm.start(generation_config="vllm"),
            TextDecoder(read_tokenizer(self.llm.model)),
            eos_ids=eos_ids(self.llm.model),
            max_context_tokens=self.llm.max_model_len,
        )


def _reason(error: Exception) -> str:
    """One line; of a setting that vLLM refuses, what it says of it."""
    from pydantic import ValidationError

    return str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else one_line(error)


def model_length(model: Path, asked: int | None) -> int:
    """Tokens of prefix and completion together: what was asked for, or all that the model has.

    Raises ConfigError for more than the model has, or if its configuration does not say.
    """
    own: int | None = getattr(read_config(model), "max_position_embeddings", None)
    if own is None and asked is None:
        raise ConfigError(
            f"model folder {model}: config.json names no context length; set engine.vllm.max_model_len"
        )
    if own is not None and asked is not None and asked > own:
        raise ConfigError(f"max_model_len is {asked}, but the model in {model} has {own} positions")
    length = asked or own
    assert length is not None
    return length


def check_installed() -> None:
    """Raises ConfigError where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            'the back-end is vllm, but vLLM is not installed: pip install "rstar[vllm]", see docs/vllm.md'
        )


def environments(groups: Sequence[Sequence[int]], key: str) -> list[dict[str, str]]:
    """What the processes of engines over these groups of GPUs have in their environment; `key` names the setting.

    On a CPU each rank of a group gets a core, in turn. Raises ConfigError for a GPU that this machine lacks.
    """
    import torch

    common = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONWARNINGS": "ignore",  # of vLLM's and torch's authors to each other
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    if not torch.cuda.is_available():
        cores = sorted(os.sched_getaffinity(0))
        taken = iter(range(sum(map(len, groups))))
        binds = ["|".join(str(cores[next(taken) % len(cores)]) for _ in group) for group in groups]
        common["TORCHDYNAMO_DISABLE"] = "1"  # eager engines: no just-in-time build at the first request
        return [{**common, "VLLM_CPU_OMP_THREADS_BIND": bind} if "|" in bind else common for bind in binds]
    num_devices = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_devices)))).split(",")
    largest = max(device for group in groups for device in group)
    if largest >= num_devices:
        raise ConfigError(f"{key}: GPU {largest} is asked for; this machine has {num_devices}, from 0 on")
    return [
        {**common, "CUDA_VISIBLE_DEVICES": ",".join(visible[device] for device in group)} for group in groups
    ]


def llm_settings(
    model: Path, config: VLLMConfig, *, dtype: str, max_rows: int, tensor_parallel: int, memory_share: float,
    max_model_len: int,
) -> LLMSettings:  # fmt: skip
    """The settings of one engine, from those of all."""
    return LLMSettings(
        model=model,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        memory_share=memory_share,
        max_rows=max_rows,
        max_model_len=max_model_len,
        kv_cache_mb=config.kv_cache_mb,
        block_size=config.block_size,
        enforce_eager=config.enforce_eager,
    )
