"""One renderer: prompts as data, prefixes that only grow, masks that mark the policy's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.demonstrations import Demonstration
from rstar.prompts import BARE, FORMATS, RSTAR, Prefix, PromptFormat, render_prompt, start
from rstar.steps import STEP_STOPS, StepKind, after_step


def encode(text: str) -> list[int]:
    return list(text.encode())


def test_the_bare_format_is_the_question_between_role_tags_and_ends_right_before_the_first_step() -> None:
    assert render_prompt(BARE, "1 + 1?") == "<|user|>\n1 + 1?\n<|assistant|>\n<code>\n"


def test_the_rstar_format_is_the_published_prompt() -> None:
    assert render_prompt(RSTAR, "1 + 1?") == (
        "<|user|>:\n1 + 1?\n<|assistant|>: Let's think step by step and solve the problem with code.<code>\n"
    )


def test_formats_are_found_by_name_and_stop_at_step_ends() -> None:
    assert list(FORMATS) == ["bare", "rstar", "few-shot", "few-shot-chat"]
    assert all(format.name == name for name, format in FORMATS.items())
    assert all(format.stop == STEP_STOPS for format in FORMATS.values())


FEW_SHOT = PromptFormat(
    name="few-shot",
    instructions="Solve with code.\n\n",
    question_template="Q: {question}\nA: ",
    demonstration_template="Q: {question}\nA: {solution}\n\n",
    demonstrations=(
        Demonstration(question="1?", solution="<code>\nprint(1)\n<end_of_code>"),
        Demonstration(question="2?", solution="<code>\nprint(2)\n<end_of_code>"),
    ),
)


def test_demonstrations_and_instructions_come_first_so_that_questions_share_them() -> None:
    first, second = render_prompt(FEW_SHOT, "3?"), render_prompt(FEW_SHOT, "4?")
    assert first == (
        "Solve with code.\n\nQ: 1?\nA: <code>\nprint(1)\n<end_of_code>\n\nQ: 2?\nA: <code>\nprint(2)\n<end_of_code>\n\n"
        "Q: 3?\nA: <code>\n"
    )
    assert first.removesuffix("3?\nA: <code>\n") == second.removesuffix("4?\nA: <code>\n")


@given(st.text())
def test_any_question_is_kept_as_it_is_braces_and_tags_included(question: str) -> None:
    for format in (BARE, RSTAR, FEW_SHOT):
        assert question in render_prompt(format, question)
    assert render_prompt(BARE, question) == f"<|user|>\n{question}\n<|assistant|>\n<code>\n"


def test_a_chat_format_uses_the_models_own_template_and_begins_the_assistants_turn() -> None:
    seen: list[Sequence[dict[str, str]]] = []

    def render_chat(messages: Sequence[dict[str, str]]) -> str:
        seen.append(messages)
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"

    chat = PromptFormat(
        name="chat", chat_template=True, question_template="{question}", instructions="Use code."
    )
    assert render_prompt(chat, "1?", render_chat) == "[system]Use code.[user]1?[assistant]<code>\n"
    plain = PromptFormat(name="chat", chat_template=True, question_template="{question}")
    assert render_prompt(plain, "1?", render_chat) == "[user]1?[assistant]<code>\n"
    assert [len(messages) for messages in seen] == [2, 1]
    with pytest.raises(ValueError, match="'chat' needs a model with a chat template"):
        render_prompt(chat, "1?")


steps = st.tuples(st.text(max_size=12), st.sampled_from(StepKind), st.text(max_size=12))


@given(st.text(max_size=20), st.lists(steps, max_size=6))
def test_fault_17_mask_and_ids_have_equal_length_whatever_is_appended(
    prompt: str, appended: list[tuple[str, StepKind, str]]
) -> None:
    prefix = start(prompt, encode)
    for text, kind, stdout in appended:
        prefix = prefix.then_step(text, encode(text), kind, stdout, encode)
        assert len(prefix) == len(prefix.token_ids) == len(prefix.loss_mask)


@given(st.text(max_size=20), st.lists(steps, max_size=6))
def test_fault_8_the_loss_mask_marks_exactly_the_policys_own_ids(
    prompt: str, appended: list[tuple[str, StepKind, str]]
) -> None:
    prefix, sampled, text_so_far = start(prompt, encode), [], prompt
    for number, (text, kind, stdout) in enumerate(appended):
        # The policy's ids need not be what the tokenizer would make of the text: they are kept as they are.
        ids = [1_000_000 + number] * (number + 1)
        longer = prefix.then_step(text, ids, kind, stdout, encode)
        assert longer.segments[: len(prefix.segments)] == prefix.segments
        prefix, text_so_far = longer, text_so_far + text + after_step(kind, stdout)
        sampled += ids
    own = [token for token, mask in zip(prefix.token_ids, prefix.loss_mask, strict=True) if mask]
    assert own == sampled
    assert all(
        token < 256 for token, mask in zip(prefix.token_ids, prefix.loss_mask, strict=True) if not mask
    )
    assert prefix.text == text_so_far


def test_empty_engine_text_adds_no_segment() -> None:
    assert start("", encode) == Prefix(())
    answer = start("q", encode).then_step("a", [1], StepKind.ANSWER, "", encode)
    assert [segment.from_policy for segment in answer.segments] == [False, True]
