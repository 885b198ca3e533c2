"""The embedded base model: its tokenizer is exact, its training data are what search would write, it loads and serves."""

from __future__ import annotations

import itertools
import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rounds.artifact import hash_model
from rounds.base_card import CARD, Attempt, accuracy_tables
from rounds.base_model import (
    BASE_MODEL,
    SPECIAL_TOKENS,
    TRAINING,
    BaseModelConfig,
    evaluate,
    make_base_model,
    new_model,
    train_tokenizer,
    training_examples,
)
from rounds.curriculum import Family, Level, Split, generate
from rounds.curriculum.lessons import lessons
from rstar.prompts import BARE, render_prompt
from rstar.steps import parse_solution, render_solution

TINY = BaseModelConfig(
    num_lessons=48,
    num_tokenizer_lessons=200,
    vocab_size=400,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    intermediate_size=64,
    num_eval_problems=0,
    training=replace(TRAINING, global_batch_size=8, micro_batch_size=8, logging_steps=1),
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE_MODEL)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_encoding_and_decoding_up_to_its_unicode_form(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


def test_every_loader_reads_the_same_tokenizer(tokenizer: Any) -> None:
    as_file = Tokenizer.from_file(str(BASE_MODEL / "tokenizer.json"))
    for lesson in itertools.islice(lessons(9), 100):
        text = render_prompt(BARE, lesson.question) + render_solution(lesson.solution)
        assert tokenizer.encode(text, add_special_tokens=False) == as_file.encode(text).ids


@given(number=st.integers(0, 10**9))
def test_each_digit_is_one_token(tokenizer: Any, number: int) -> None:
    for text in (str(number), f" = {number}", f"({number}, {number})"):
        digits = [token for token in tokenizer.tokenize(text) if any(c.isdigit() for c in token)]
        assert all(len(token) == 1 for token in digits)
        assert "".join(digits) == "".join(c for c in text if c.isdigit())


@pytest.mark.parametrize("tag", SPECIAL_TOKENS)
def test_each_tag_is_one_special_token_wherever_it_stands(tokenizer: Any, tag: str) -> None:
    (alone,) = tokenizer.encode(tag, add_special_tokens=False)
    assert alone in tokenizer.all_special_ids or tag in tokenizer.get_added_vocab()
    assert tokenizer.encode(f"x = 1{tag}y", add_special_tokens=False).count(alone) == 1


def test_a_trained_tokenizer_is_the_same_after_saving_and_loading_beside_a_model(tmp_path: Path) -> None:
    made = train_tokenizer(["what is 12 + 30? find the sum.", "# ans: the sum\nans = 12 + 30\n"] * 50, 320)
    made.save_pretrained(tmp_path)
    new_model(TINY, made).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Größe — (12 + 30) * 2 = 84?\n\n\t<end_of_step>∑"
    assert loaded.encode(text) == made.encode(text)
    assert loaded.decode(loaded.encode(text)) == text


def test_training_examples_hold_the_solution_and_mask_exactly_what_the_policy_writes(tokenizer: Any) -> None:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    taught = list(itertools.islice(lessons(3), 40))
    for lesson, example in zip(taught, training_examples(taught, encode), strict=True):
        prompt = render_prompt(BARE, lesson.question)
        assert example.text.startswith(prompt)
        shown = parse_solution(example.text.removeprefix(prompt))
        assert shown.steps == lesson.solution.steps
        assert (shown.output or "") == (lesson.solution.output or "").rstrip("\n")
        assert tokenizer.decode(example.token_ids) == example.text
        written = [token for token, mask in zip(example.token_ids, example.loss_mask, strict=True) if mask]
        assert tokenizer.decode(written) == "".join(step.text for step in lesson.solution.steps)


def test_longest_reference_solution_fits_the_context_with_room_to_spare(tokenizer: Any) -> None:
    from rounds.curriculum import generate_exercises

    for exercise in generate_exercises(Split.EVAL, Level.OLYMPIAD, 300, 0):
        prompt = tokenizer.encode(render_prompt(BARE, exercise.problem.question), add_special_tokens=False)
        text = "\n".join(step.text for step in exercise.demonstration())
        solution = tokenizer.encode(text, add_special_tokens=False)
        assert len(solution) <= 300
        assert len(prompt) + len(solution) <= 480


def test_shipped_model_is_a_small_stock_qwen2_with_what_vllm_needs() -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.num_parameters() < 1_500_000
    assert not model.config.tie_word_embeddings
    assert model.config.hidden_size // model.config.num_attention_heads == 64
    assert model.dtype == torch.float32
    assert sum(path.stat().st_size for path in BASE_MODEL.iterdir()) < 8_000_000


def test_shipped_folder_holds_the_model_alone_and_its_card_names_its_hash() -> None:
    names = {path.name for path in BASE_MODEL.iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert hash_model(BASE_MODEL) in (BASE_MODEL / CARD).read_text()


def _greedy_ids(model: Any, prompt_ids: list[int], count: int) -> list[int]:
    """The naive reference: the whole text through the model for every token."""
    ids = list(prompt_ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt_ids) :]


def test_shipped_model_begins_with_a_step_about_the_question(tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL)
    prompt = render_prompt(BARE, "what is the remainder when 84 is divided by 23?")
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    text = tokenizer.decode(_greedy_ids(model, ids, 40))
    assert text.split("<end_of_step>")[0] == "# ans: remainder\nans = 84 % 23\n"


def test_tiny_base_model_is_the_same_when_made_again_and_another_with_another_seed(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    make_base_model(TINY, first)
    make_base_model(TINY, second)
    make_base_model(replace(TINY, seed=1), other)
    assert hash_model(first) == hash_model(second) != hash_model(other)
    assert hash_model(first) in (first / CARD).read_text()


def test_shipped_model_solves_more_than_half_of_the_easy_problems_and_few_long_ones() -> None:
    attempts = evaluate(BASE_MODEL, BaseModelConfig(num_eval_problems=40))
    solved = {level: sum(a.solved for a in attempts if a.level is level) for level in Level}
    assert len(attempts) == 40 * len(Level)
    assert solved[Level.EASY] > 20
    assert solved[Level.OLYMPIAD] < 10


def test_card_shows_the_share_solved_by_level_length_and_family() -> None:
    attempts = [
        Attempt(Level.EASY, Family.AGES, 2, solved=True),
        Attempt(Level.EASY, Family.RATES, 3, solved=False),
        Attempt(Level.OLYMPIAD, Family.AGES, 7, solved=False),
    ]
    card = accuracy_tables(attempts)
    assert "| easy | 2 | 50.0% (9.5%-90.5%) |" in card
    assert "| olympiad | 1 | 0.0% (0.0%-79.3%) |" in card
    assert "| 7 | 1 | 0.0% (0.0%-79.3%) |" in card
    assert "| ages | 100% of 1 | none asked | 0% of 1 |" in card


def test_generation_ends_at_the_answer() -> None:
    ends = json.loads((BASE_MODEL / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    assert tokenizer.convert_tokens_to_ids("<end_of_answer>") in ends


@pytest.mark.vllm
def test_vllm_serves_the_shipped_model_with_the_same_greedy_tokens(tokenizer: Any) -> None:
    from vllm import LLM, SamplingParams

    prompts = [
        tokenizer.encode(render_prompt(BARE, problem.question), add_special_tokens=False)
        for level in Level
        for problem in generate(Split.EVAL, level, 2, 0)
    ]
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL)
    expected = [_greedy_ids(model, ids, 32) for ids in prompts]
    llm = LLM(
        model=str(BASE_MODEL), dtype="float32", max_model_len=512, enforce_eager=True, block_size=32,
        enable_prefix_caching=True, kv_cache_memory_bytes=64 << 20,
    )  # fmt: skip
    try:
        served = llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            SamplingParams(temperature=0, max_tokens=32, ignore_eos=True),
        )
        assert [list(answer.outputs[0].token_ids) for answer in served] == expected
    finally:
        llm.llm_engine.engine_core.shutdown()
