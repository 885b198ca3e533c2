"""The tokenizer of a model folder, as every policy over such a folder needs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rstar.backends.loading import read_config, read_tokenizer
from rstar.backends.stops import TextDecoder
from rstar.errors import BackendError, ConfigError


class ModelTokenizer:
    """Text to token ids and chats to text. `folder` needs a config.json and a tokenizer, no weights.

    Raises ConfigError if it has none that work, or a tokenizer for a larger vocabulary than the model's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vocab_size: int = read_config(folder).vocab_size
        self._tokenizer = read_tokenizer(folder)
        self._decoder = TextDecoder(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added (those that the text spells out are found)."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these ids: special tokens kept, spaces left alone."""
        return self._decoder.decode(token_ids)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages in the model's chat template, up to where the assistant's answer begins."""
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer in {self.folder} has no chat template; use a prompt format without"
            )
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def check_prefix(self, prefix_ids: Sequence[int]) -> None:
        """Raises BackendError for an empty prefix, and for ids outside the model's vocabulary."""
        if not prefix_ids:
            raise BackendError("a request with an empty prefix; the prompt must have at least one token")
        if not 0 <= min(prefix_ids) <= max(prefix_ids) < self.vocab_size:
            raise BackendError(
                f"a request with token ids outside the model's vocabulary of {self.vocab_size}"
            )
