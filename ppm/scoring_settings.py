"""A preference model's folder becomes a scoring engine, or one clear line about what is wrong with it.

Every model is checked once after loading: a few scores of the engine, with and without known beginnings, must equal those
of the model by itself. So an architecture whose attention does not fit is refused, never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ppm.batches import lay_out
from ppm.model import ProcessPreferenceModel, load, search_values
from ppm.scoring_engine import ScoringEngine, ScoringStats
from ppm.siblings import Siblings
from rstar.backends.loading import check_device, check_dtype, kv_shape, one_line
from rstar.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """What a scoring engine is built from. `device` is a torch device, `prefix_cache_mb` in MiB; see `PPMScorer`."""

    model: Path
    device: str
    dtype: str
    max_length: int
    max_pass_tokens: int
    prefix_cache_mb: int

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.max_pass_tokens < 1:
            raise ConfigError(f"max_pass_tokens is {self.max_pass_tokens}; it must be at least 1")
        if self.prefix_cache_mb < 0:
            raise ConfigError(
                f"prefix_cache_mb is {self.prefix_cache_mb}; it must be at least 0 (0: no cache)"
            )

    def load(self) -> ScoringEngine:
        """The model in an engine, checked. Raises ConfigError with one line otherwise."""
        check_device(self.device)
        model = load(self.model, dtype=self.dtype).eval().requires_grad_(False).to(self.device)
        engine = ScoringEngine(
            model,
            kv_shape(model.trunk, self.model),
            max_length=self.max_length,
            max_pass_tokens=self.max_pass_tokens,
            prefix_cache_bytes=self.prefix_cache_mb << 20,
        )
        _check_engine(engine, model, self)
        return engine


def _check_engine(engine: ScoringEngine, model: ProcessPreferenceModel, settings: ScoringSettings) -> None:
    """Compare the engine, once with everything new and once with most of it known, with the model by itself."""
    vocab_size: int = model.config.vocab_size
    length = min(24, settings.max_length // 2)
    ids = tuple((7919 * (at + 1)) % vocab_size for at in range(2 * length))
    kind = model.config.model_type
    refusal = f"model folder {settings.model}: this back-end cannot score with a {kind} model"
    largest = 0.0
    try:
        for job_id, end in enumerate(range(1, length, max(1, length // 3))):
            request = Siblings(ids[:end], (ids[end : end + length], ids[end : end + 2], ids[:1]))
            engine.submit(job_id, request)
            ((_, found),) = engine.step()
            exact = _reference_scores(model, [request.prefix_ids + step for step in request.steps])
            largest = max(largest, *(abs(a - b) for a, b in zip(found, exact, strict=True)))
    except Exception as error:  # whatever an architecture trips over
        raise ConfigError(f"{refusal}: {one_line(error)}; use vLLM") from None
    tolerance = 1e-3 if torch.finfo(model.classifier.dtype).eps < 1e-5 else 0.3
    if not largest <= tolerance:
        raise ConfigError(f"{refusal}: its scores differ by {largest:.3g} from the model's own; use vLLM")
    engine.reset()
    engine.stats = ScoringStats()


def _reference_scores(model: ProcessPreferenceModel, sequences: Sequence[tuple[int, ...]]) -> list[float]:
    """The scores of whole sequences, as in training: each in a row of its own, by one pass without any cache."""
    inputs = lay_out(sequences, range(len(sequences)), share_rows=False)
    with torch.inference_mode():
        scores_S = model(**{name: tensor.to(model.classifier.device) for name, tensor in inputs.items()})
    found: list[float] = search_values(scores_S, model.score_bound).tolist()
    return found
