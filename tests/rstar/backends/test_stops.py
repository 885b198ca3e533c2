"""Stop texts in decoded text, whatever tokens spell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rstar.backends.stops import StopFinder, TextDecoder
from rstar.steps import STEP_STOPS
from tests.rstar.backends.tiny_models import EOS, TEXTS, train_tokenizer

TOKENIZER: PreTrainedTokenizerFast = train_tokenizer()
DECODER = TextDecoder(TOKENIZER)
STOPS = (*STEP_STOPS, "é", "\n\n", " pears")


def first_stop(finder: StopFinder, token_ids: list[int]) -> int | None:
    """How many tokens there are when the finder says stop; None if it never does."""
    return next((n for n in range(1, len(token_ids) + 1) if finder.find(token_ids[:n])), None)


def naive_first_stop(token_ids: list[int], stops: tuple[str, ...]) -> int | None:
    """Decode everything each time."""
    for n in range(1, len(token_ids) + 1):
        if any(stop in DECODER.decode(token_ids[:n]) for stop in stops):
            return n
    return None


pieces = st.one_of(
    st.integers(0, len(TOKENIZER) - 1).map(lambda token_id: [token_id]),
    st.sampled_from([*STOPS, "<end_of", "_step>", "\n", "é", "pea"]).map(
        lambda text: [i for byte in text for i in TOKENIZER.encode(byte, add_special_tokens=False)]
    ),
    st.sampled_from(STOPS).map(lambda text: TOKENIZER.encode(text, add_special_tokens=False)),
)


@given(parts=st.lists(pieces, max_size=8), stops=st.lists(st.sampled_from(STOPS), max_size=3).map(tuple))
def test_a_stop_text_is_found_at_the_token_that_completes_it(
    parts: list[list[int]], stops: tuple[str, ...]
) -> None:
    token_ids = [token_id for part in parts for token_id in part]
    assert first_stop(StopFinder(stops, DECODER), token_ids) == naive_first_stop(token_ids, stops)


@pytest.mark.parametrize("stop", STEP_STOPS)
def test_a_tag_is_found_as_one_token_and_spelled_out(stop: str) -> None:
    finder = StopFinder(STEP_STOPS, DECODER)
    whole = TOKENIZER.encode(stop, add_special_tokens=False)
    assert len(whole) == 1
    assert first_stop(finder, whole) == 1
    spelled = [i for character in stop for i in TOKENIZER.encode(character, add_special_tokens=False)]
    assert len(spelled) == len(stop)
    assert first_stop(finder, spelled) == len(stop)


def test_text_is_cut_right_after_the_first_stop_text() -> None:
    finder = StopFinder(("</s>", "###"), DECODER)
    assert finder.cut("a ### b </s> c") == "a ###"
    assert finder.cut("nothing") == "nothing"


def test_empty_stop_texts_never_stop() -> None:
    assert first_stop(StopFinder(("",), DECODER), TOKENIZER.encode("abc")) is None


@given(text=st.one_of(st.text(max_size=30), st.sampled_from([*TEXTS, f"a  b {EOS}\n <code> ,."])))
def test_text_survives_encoding_and_decoding_exactly(text: str) -> None:
    assert DECODER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text
