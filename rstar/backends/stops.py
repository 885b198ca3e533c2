"""Where a completion ends: stop texts, found in the decoded text whatever tokens spell them.

A stop text is usually one token of its own. A model may also spell it out in pieces, or join its last character with
what follows; so the text decides. The token that completes the stop text is the last one of the completion; the text is
cut right after the stop text, so it can be shorter than what the token ids decode to, by a part of that last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextDecoder:
    """Token ids to text: special tokens kept, spaces not cleaned up."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these ids."""
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def piece(self, token_id: int) -> str:
        """The text of one token by itself; a part of a character decodes to U+FFFD."""
        if (piece := self._pieces.get(token_id)) is None:
            piece = self._pieces[token_id] = self.decode((token_id,))
        return piece


class StopFinder:
    """Tells after each token whether a completion now contains one of the stop texts."""

    def __init__(self, stop: tuple[str, ...], decoder: TextDecoder) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = decoder
        self._by_token: dict[int, bool] = {}
        self._window = max((len(text.encode()) for text in self._stop), default=0) + 1

    def may_complete(self, token_id: int) -> bool:
        """Whether this token can be the one that completes a stop text: it holds the last character of one.

        A piece of a character (U+FFFD) might, for a stop text that does not end in ASCII.
        """
        if (answer := self._by_token.get(token_id)) is None:
            piece = self._decoder.piece(token_id)
            answer = any(
                text[-1] in piece or (text[-1] > "\x7f" and "\ufffd" in piece) for text in self._stop
            )
            self._by_token[token_id] = answer
        return answer

    def find(self, token_ids: Sequence[int]) -> bool:
        """Whether the completion, which held no stop text before its last token, holds one now.

        A stop text of n bytes is spelled by at most n tokens, so only the tail is decoded.
        """
        if not self.may_complete(token_ids[-1]):
            return False
        tail = self._decoder.decode(token_ids[-self._window :])
        return any(text in tail for text in self._stop)

    def cut(self, text: str) -> str:
        """`text` up to the end of the stop text that ends first."""
        ends = [at + len(stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text
