"""A model folder becomes a tokenizer and an engine, or one clear line about what is wrong with it.

Every model is checked once after loading: a few tokens decoded by the engine must have the log-probabilities that the
model computes without any cache. So an architecture whose attention the engine does not know is refused, never wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar.errors import ConfigError
from rstar.protocols import ProposeRequest, SamplingConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from rstar.backends.engine import Engine
    from rstar.backends.kv_pool import KVShape

_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine is built from. `device` is a torch device; memory sizes are in MiB and per engine."""

    model: Path
    device: str
    dtype: str
    max_batch_rows: int
    max_context_tokens: int
    kv_cache_mb: int
    prefix_cache_mb: int

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        for name in ("max_batch_rows", "max_context_tokens", "kv_cache_mb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.prefix_cache_mb < 0:
            raise ConfigError(
                f"prefix_cache_mb is {self.prefix_cache_mb}; it must be at least 0 (0: no cache)"
            )

    def load(self) -> Engine:
        """Model, tokenizer and engine, checked. Raises ConfigError with one line otherwise."""
        return _load_engine(self)


def read_config(model: Path) -> PreTrainedConfig:
    """The model's configuration. Raises ConfigError if the folder holds no Hugging Face model."""
    from transformers import AutoConfig

    if not model.is_dir():
        raise ConfigError(f"model folder {model} does not exist")
    if not (model / "config.json").is_file():
        raise ConfigError(f"model folder {model} has no config.json; a Hugging Face model folder has one")
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model folder {model}: cannot read config.json: {one_line(error)}") from None
    text_config: PreTrainedConfig = config.get_text_config(decoder=True)
    return text_config


def read_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises ConfigError if the folder holds none that works, or one for a larger vocabulary."""
    from transformers import AutoTokenizer

    vocab_size = read_config(model).vocab_size
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if not any((model / name).is_file() for name in names):
        raise ConfigError(f"model folder {model} has no tokenizer (looked for {', '.join(names)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"model folder {model}: cannot load the tokenizer: {one_line(error)}") from None
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0:
        raise ConfigError(f"model folder {model}: the tokenizer has an empty vocabulary")
    if largest >= vocab_size:
        raise ConfigError(
            f"model folder {model}: the tokenizer has token ids up to {largest}, the model only {vocab_size} embeddings"
        )
    assert not isinstance(tokenizer, bool)
    return tokenizer


def context_tokens(model: Path, asked: int | None) -> int:
    """The context to use: what was asked for, or all that the model has.

    Raises ConfigError for more than the model has, and for a context longer than the window of a model with
    sliding-window attention: within the window such a model attends to everything, which is what the engine does.
    """
    config = read_config(model)
    own = getattr(config, "max_position_embeddings", None)
    window = _sliding_window(config)
    if asked is None:
        limits = [limit for limit in (own, window) if limit is not None]
        if not limits:
            raise ConfigError(
                f"model folder {model}: config.json names no context length; set max_context_tokens"
            )
        return min(limits)
    if own is not None and asked > own:
        raise ConfigError(f"max_context_tokens is {asked}, but the model in {model} has {own} positions")
    if window is not None and asked > window:
        raise ConfigError(
            f"max_context_tokens is {asked}, but the model in {model} has sliding-window attention; "
            f"this back-end serves it up to its window of {window} tokens"
        )
    return asked


def check_dtype(dtype: str) -> None:
    """Raises ConfigError for numbers that no back-end computes in."""
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")


def check_device(device: str) -> None:
    """Raises ConfigError if torch cannot use the device."""
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is not a torch device; cpu and cuda are") from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but this machine has no usable CUDA device")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices"
        )


def _load_engine(settings: EngineSettings) -> Engine:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from rstar.backends.attention import NAME
    from rstar.backends.engine import Engine
    from rstar.backends.stops import TextDecoder

    check_device(settings.device)
    tokenizer = read_tokenizer(settings.model)
    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            settings.model,
            local_files_only=True,
            dtype=settings.dtype,
            attn_implementation=NAME,
        )
    except Exception as error:  # transformers, safetensors and torch each have their own
        raise ConfigError(
            f"model folder {settings.model}: cannot load the model: {one_line(error)}"
        ) from None
    torch.nn.Module.to(model, settings.device).eval().requires_grad_(False)
    engine = Engine(
        model,
        kv_shape(model, settings.model),
        TextDecoder(tokenizer),
        eos_ids=eos_ids(settings.model),
        max_batch_rows=settings.max_batch_rows,
        max_context_tokens=settings.max_context_tokens,
        kv_cache_bytes=settings.kv_cache_mb << 20,
        prefix_cache_bytes=settings.prefix_cache_mb << 20,
    )
    _check_engine(engine, model, settings)
    return engine


def kv_shape(model: PreTrainedModel, folder: Path) -> KVShape:
    """The sizes of keys and values, from a pass over two tokens. Raises ConfigError for other kinds of memory."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from rstar.backends.kv_pool import KVShape

    cache = DynamicCache(config=model.config)
    known = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    kind = model.config.model_type
    if not known or getattr(model, "_is_stateful", False):
        raise ConfigError(f"model folder {folder}: a {kind} model keeps more than keys and values; use vLLM")
    with torch.inference_mode():
        try:
            model(
                torch.zeros((1, 2), dtype=torch.int64, device=model.device),
                past_key_values=cache,
                use_cache=True,
            )
        except Exception as error:
            raise ConfigError(f"model folder {folder}: the model does not run: {one_line(error)}") from None
    states = [s for layer in cache.layers for s in (layer.keys, layer.values)]  # type: ignore[union-attr]
    shapes = {(s.shape[1], s.shape[3]) for s in states if s is not None}
    if len(shapes) != 1:
        raise ConfigError(
            f"model folder {folder}: a {kind} model's layers differ in their keys and values; use vLLM"
        )
    num_kv_heads, head_dim = shapes.pop()
    return KVShape(
        num_layers=len(cache.layers),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=model.dtype,
        device=model.device,
    )


def _check_engine(engine: Engine, model: PreTrainedModel, settings: EngineSettings) -> None:
    """Compare the engine with the bare model on two short random requests."""
    import torch

    vocab_size = read_config(settings.model).vocab_size
    context = settings.max_context_tokens
    lengths = [length for length in (3, 40) if length + 4 <= context]
    prefixes = [tuple((7919 * (i + length)) % vocab_size for i in range(length)) for length in lengths]
    sampling = SamplingConfig(max_step_tokens=4)
    largest = 0.0
    refusal = f"model folder {settings.model}: this back-end cannot decode a {model.config.model_type} model"
    try:
        for i, prefix_ids in enumerate(prefixes):
            engine.submit(
                i, ProposeRequest(prefix_ids=prefix_ids, num_candidates=2, seed=i, sampling=sampling, stop=())
            )
        while engine.has_work:
            for i, candidates in engine.step():
                for candidate in candidates:
                    exact = reference_logprobs(model, prefixes[i], candidate.token_ids)
                    difference = exact - torch.tensor(candidate.logprobs, dtype=exact.dtype)
                    largest = max(largest, float(difference.abs().max()))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{refusal}: {one_line(error)}; use vLLM") from None
    tolerance = 1e-3 if torch.finfo(model.dtype).eps < 1e-5 else 0.3
    if not largest <= tolerance:
        raise ConfigError(
            f"{refusal}: its log-probabilities differ by {largest:.3g} from the model's own; use vLLM"
        )
    engine.reset()
    engine.stats = type(engine.stats)()


def reference_logprobs(
    model: PreTrainedModel, prefix_ids: tuple[int, ...], token_ids: tuple[int, ...]
) -> torch.Tensor:
    """Log-probabilities of `token_ids` after `prefix_ids`, shape (T,), by one plain pass without any cache."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([[*prefix_ids, *token_ids]], device=model.device)
        output = model(ids, use_cache=False)
        wide = torch.promote_types(model.dtype, torch.float32)
        logprobs = torch.log_softmax(output.logits[0, len(prefix_ids) - 1 : -1], dim=-1, dtype=wide)
        return logprobs.gather(1, ids[0, len(prefix_ids) :, None])[:, 0].cpu()


def eos_ids(model: Path) -> frozenset[int]:
    """The ids that end a completion: those of the generation settings, of the model, and the tokenizer's."""
    from transformers import GenerationConfig

    found: set[int] = set()
    values: list[Any] = [read_config(model).eos_token_id, read_tokenizer(model).eos_token_id]
    if (model / "generation_config.json").is_file():
        values.append(GenerationConfig.from_pretrained(model, local_files_only=True).eos_token_id)
    for value in values:
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def _sliding_window(config: PreTrainedConfig) -> int | None:
    """Tokens that the narrowest layer sees; None if every layer sees everything."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicSlidingWindowLayer

    layers = DynamicCache(config=config).layers
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows, default=None)


def one_line(error: Exception) -> str:
    """Type and first line of an error that is not ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
