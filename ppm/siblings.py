"""What a scorer reads: steps that may follow one prefix, in the preference model's own ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rstar.backends.loading import read_config, read_tokenizer
from rstar.errors import BackendError, ConfigError
from rstar.protocols import ScoreRequest


@dataclass(frozen=True, slots=True)
class Siblings:
    """Steps, at least one, that may follow one prefix. Ids are within the vocabulary, and a step has at least one of them
    and at most `max_length`."""

    prefix_ids: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]


class SiblingReader:
    """Reads requests for the model in a folder.

    `reads_ids`: the model has the policy's tokenizer and reads the ids of a request; otherwise its texts, encoded anew.
    `max_length` bounds one sequence in tokens (default: all that the model takes). Raises ConfigError if the folder holds no
    model, or one for shorter sequences.
    """

    def __init__(self, folder: Path, *, reads_ids: bool, max_length: int | None) -> None:
        config = read_config(folder)
        context: int = config.max_position_embeddings
        if max_length is not None and not 1 <= max_length <= context:
            raise ConfigError(
                f"max_length is {max_length}; it must be at least 1 and at most the model's {context}"
            )
        self.max_length = max_length or context
        self._vocab_size: int = config.vocab_size
        self._tokenizer = None if reads_ids else read_tokenizer(folder)

    def read(self, request: ScoreRequest) -> Siblings:
        """The request in the model's own ids, checked. It may have no steps. Raises BackendError for a step that is empty or
        too long, and for ids outside the vocabulary."""
        if self._tokenizer is None:
            siblings = Siblings(request.prefix_ids, request.step_ids)
        else:
            siblings = Siblings(
                self._encode(request.prefix_text), tuple(map(self._encode, request.step_texts))
            )
        if not all(siblings.steps):
            raise BackendError("a request with an empty step; there is nothing to score")
        longest = max(map(len, siblings.steps), default=0)
        if longest > self.max_length:
            raise BackendError(
                f"a request has {longest} tokens to judge; max_length is {self.max_length}, the model's own or the one "
                "asked for"
            )
        for ids in (siblings.prefix_ids, *siblings.steps):
            if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
                raise BackendError(
                    f"a request with token ids outside the model's vocabulary of {self._vocab_size}"
                )
        return siblings

    def _encode(self, text: str) -> tuple[int, ...]:
        assert self._tokenizer is not None
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))
