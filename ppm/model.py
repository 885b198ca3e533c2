"""The process preference model: a language model's trunk, one linear head, and a bound (rStar-Math, section 3.3).

A folder that holds one is an ordinary Hugging Face folder: `AutoModelForSequenceClassification` loads it and gives the
head's number for the last token, as does vLLM's pooling runner, which also applies the bound, because config.json names
it where vLLM looks (`sentence_transformers.activation_fn`). See docs/ppm.md for the settings of both.

What this file does not cover: which tokens lie where (`batches`), training (`train`), answering a search (`scorer`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Cache
from transformers.utils import logging as transformers_logging

from ppm.config import ScoreBound
from rstar.errors import ConfigError
from rstar.training.trainer import whole

_BOUNDS: Mapping[ScoreBound, nn.Module] = {ScoreBound.TANH: nn.Tanh(), ScoreBound.NONE: nn.Identity()}


class ProcessPreferenceModel(nn.Module):
    """Scores of steps. `classifier` is the Hugging Face model that is saved; this adds no weights to it."""

    def __init__(self, classifier: Any, score_bound: ScoreBound) -> None:
        """Raises ConfigError unless `classifier` is a decoder with one linear head, `score`."""
        super().__init__()
        head = getattr(classifier, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            kind = classifier.config.model_type
            raise ConfigError(
                f"a {kind} model for sequence classification has no linear head called score with one output; "
                "the preference model needs a decoder such as qwen2 or llama"
            )
        self.classifier = classifier
        self.score_bound = score_bound
        write_bound(classifier.config, score_bound)

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.classifier.config

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, subtree_ends: Tensor, read_at: Tensor
    ) -> Tensor:
        """Scores (S,) of the S sequences whose last tokens are at `read_at` (S,), indices into the flattened rows.

        `input_ids`, `position_ids` and `subtree_ends` are (B, T): a token is seen by those from itself up to, not
        including, column `subtree_ends` of its row (see `batches`).
        """
        return self.read(input_ids, position_ids, self._mask(subtree_ends), read_at)

    def read(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        read_at: Tensor,
        cache: Cache | None = None,
    ) -> Tensor:
        """As `forward`, with a mask (B, 1, T, columns) that is added to attention scores; the columns are those of the
        keys and values that `cache` returns, without one the T tokens themselves."""
        hidden_BTD = self.trunk(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        raw_S = self.classifier.score(hidden_BTD.flatten(0, 1)[read_at])[:, 0]
        return bounded(raw_S, self.score_bound)

    @property
    def trunk(self) -> Any:
        """The Hugging Face decoder without its head."""
        return getattr(self.classifier, self.classifier.base_model_prefix)

    def _mask(self, subtree_ends: Tensor) -> Tensor | None:
        """What each token sees, (B, 1, T, T): added to attention scores, or None for kernels that are causal by
        themselves (which is right for rows of one sequence only)."""
        if "flash" in self.config._attn_implementation:
            return None
        seen = visible(subtree_ends)[:, None]
        dtype = self.classifier.dtype
        device = subtree_ends.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
            ~seen, torch.finfo(dtype).min
        )


def visible(subtree_ends_BT: Tensor) -> Tensor:
    """(B, T, T), true where the token of a row sees that of a column: itself and what it descends from."""
    column_T = torch.arange(subtree_ends_BT.shape[1], device=subtree_ends_BT.device)
    causal_TT = column_T[None, :] <= column_T[:, None]
    return causal_TT & (column_T[:, None] < subtree_ends_BT[:, None, :])


def bounded(raw: Tensor, score_bound: ScoreBound) -> Tensor:
    """From the head's number to the score: the one function of training and inference. In float32 at least, as in vLLM:
    the tanh of a bfloat16 number above 3.5 would be 1, and all that are sure would be equal."""
    result: Tensor = _BOUNDS[score_bound](raw.to(torch.promote_types(raw.dtype, torch.float32)))
    return result


def search_values(scores: Tensor, score_bound: ScoreBound) -> Tensor:
    """What a search is told, in [-1, 1], as float64: the scores, or of a model without a bound their tanh."""
    return scores.double().tanh() if score_bound is ScoreBound.NONE else scores.double()


def start_from(
    folder: Path, score_bound: ScoreBound, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> ProcessPreferenceModel:
    """A preference model with the trunk of the language model in `folder`, in `dtype`. The language head is dropped.

    The new head is zero [ours]: every score starts at 0, so the first loss is ln 2 whatever the seed, and tanh starts
    where it is steepest. Raises ConfigError if the folder holds no such model.
    """
    classifier, missing = _classifier(folder, num_labels=1, dtype=dtype, attn_implementation=attention)
    model = ProcessPreferenceModel(classifier, score_bound)
    if lost := sorted(key for key in missing if not key.startswith("score.")):
        raise ConfigError(f"model folder {folder}: its weights lack {lost[0]} ({len(lost)} in all)")
    with whole(list(classifier.score.parameters())):
        for parameter in classifier.score.parameters():
            nn.init.zeros_(parameter)
    if classifier.config.pad_token_id is None:
        classifier.config.pad_token_id = _padding_id(folder)
    classifier.config.tie_word_embeddings = False  # there is no language head to tie
    return model


def load(folder: Path, *, attention: str = "sdpa", dtype: str = "auto") -> ProcessPreferenceModel:
    """A saved preference model. Raises ConfigError if the folder holds something else."""
    classifier, missing = _classifier(folder, dtype=dtype, attn_implementation=attention)
    if missing:
        raise ConfigError(f"model folder {folder}: its weights lack {missing[0]}; it is no preference model")
    return ProcessPreferenceModel(classifier, read_bound(classifier.config, folder))


def write_bound(config: Any, score_bound: ScoreBound) -> None:
    """Name the bound in a model's configuration, in the words of vLLM and sentence-transformers."""
    bound = type(_BOUNDS[score_bound])
    config.sentence_transformers = {"activation_fn": f"{bound.__module__}.{bound.__qualname__}"}


def read_bound(config: Any, folder: Path) -> ScoreBound:
    """Inverse of `write_bound`. Raises ConfigError if the configuration names none, or one that is not ours."""
    named = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    for score_bound, module in _BOUNDS.items():
        if named == f"{type(module).__module__}.{type(module).__qualname__}":
            return score_bound
    known = " or ".join(type(module).__qualname__ for module in _BOUNDS.values())
    raise ConfigError(
        f"model folder {folder}: config.json names {named or 'nothing'} as sentence_transformers.activation_fn; "
        f"a preference model's is torch's {known}"
    )


def _classifier(folder: Path, **arguments: Any) -> tuple[Any, list[str]]:
    """A model for sequence classification, and the names of its weights that the folder has none for."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model folder {folder} has no config.json; a Hugging Face model folder has one")
    with quietly():
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, output_loading_info=True, local_files_only=True, **arguments
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"model folder {folder}: cannot load the model: {reason}") from None
    return model, sorted(info["missing_keys"])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and the table of missing weights that loading prints."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _padding_id(folder: Path) -> int:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for padding_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(padding_id, int):
            return padding_id
    raise ConfigError(f"model folder {folder}: neither model nor tokenizer has a padding or end token")
