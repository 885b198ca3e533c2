"""Opens a trained preference model as the value back-end of a search, over the engine that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rstar.engines import Backend, EngineConfig
from rstar.errors import ConfigError
from rstar.training.folder import TRAINING, read_json

if TYPE_CHECKING:
    from ppm.scorer import PPMScorer
    from ppm.vllm_scorer import VLLMScorer


def open_scorer(
    folder: Path, engine: EngineConfig, *, max_length: int | None = None
) -> PPMScorer | VLLMScorer:
    """The preference model in a folder: over vLLM where the policy is, otherwise over transformers, and where the policy
    runs in this process, so does it. It cuts what is longer than `max_length` tokens; None: as its training did.

    Raises ConfigError if the folder holds none.
    """
    if max_length is None:
        record = read_json(folder / TRAINING)
        if record is None:
            raise ConfigError(
                f"{folder} has no {TRAINING}; a preference model's folder is one that its training finished"
            )
        max_length = record["settings"]["max_length"]
    if engine.backend is Backend.VLLM:
        from ppm.vllm_scorer import VLLMScorer

        return VLLMScorer(
            folder,
            engine.vllm,
            max_length=max_length,
            dtype=engine.dtype,
            max_batch_rows=engine.max_batch_rows,
        )
    from ppm.scorer import PPMScorer

    return PPMScorer(
        folder,
        max_length=max_length,
        num_replicas=0 if engine.num_replicas == 0 else None,
        dtype=engine.dtype,
    )
