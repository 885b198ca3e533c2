"""The scripted back-ends keep the contract of real ones, and the chain world is what it says."""

from __future__ import annotations

import asyncio
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.backends.scripted import BrokenPolicy, ChainWorld, ScriptedPolicy, ScriptedValue
from rstar.config import SearchConfig, greedy
from rstar.errors import BackendError, ConfigError
from rstar.prompts import BARE, render_prompt
from rstar.protocols import (
    FinishReason,
    PolicyBackend,
    ProposeRequest,
    SamplingConfig,
    ScoreRequest,
    ValueBackend,
)
from tests.rstar.backends.contract import check_requests_do_not_touch_each_other
from tests.rstar.fakes import TextJudge
from tests.rstar.worlds import engines, new_tree, search_one


def request(
    prefix: str = "q", *, seed: int = 0, num_candidates: int = 3, max_step_tokens: int = 99
) -> ProposeRequest:
    return ProposeRequest(
        prefix_ids=tuple(prefix.encode()),
        num_candidates=num_candidates,
        seed=seed,
        sampling=SamplingConfig(max_step_tokens=max_step_tokens),
        stop=(),
    )


def rolls(prefix: str, chance: random.Random) -> str:
    return f"{prefix}:{chance.randrange(10**9)}"


def test_scripted_back_ends_are_back_ends() -> None:
    assert isinstance(ScriptedPolicy(rolls), PolicyBackend)
    assert isinstance(ScriptedValue(len), ValueBackend)


@given(st.text(max_size=20), st.integers(0, 99), st.integers(1, 6), st.integers(1, 6))
def test_a_candidate_depends_on_prefix_seed_and_index_alone(
    prefix: str, seed: int, few: int, many: int
) -> None:
    policy = ScriptedPolicy(rolls)
    first = asyncio.run(policy.propose(request(prefix, seed=seed, num_candidates=few)))
    second = asyncio.run(policy.propose(request(prefix, seed=seed, num_candidates=many)))
    shorter = min(few, many)
    assert first[:shorter] == second[:shorter]
    assert (len(first), len(second)) == (few, many)
    assert len({candidate.text for candidate in second}) == many


@given(st.text(max_size=30), st.integers(1, 40), st.integers(1, 40))
def test_fault_17_a_text_beyond_a_limit_is_cut_there_and_says_so(text: str, limit: int, room: int) -> None:
    policy = ScriptedPolicy(lambda prefix, chance: text, max_context_tokens=room + 1)
    (candidate,) = asyncio.run(policy.propose(request(num_candidates=1, max_step_tokens=limit)))
    fits = len(text.encode()) <= min(limit, room)
    assert candidate.finish_reason is (FinishReason.STOP if fits else FinishReason.LENGTH)
    assert candidate.text == text if fits else text.startswith(candidate.text)
    assert bytes(candidate.token_ids).decode() == candidate.text
    assert (
        len(candidate.logprobs)
        == len(candidate.token_ids)
        <= max(len(text.encode()) * fits, min(limit, room))
    )


def test_scores_are_of_the_prefix_and_each_step() -> None:
    value = ScriptedValue(lambda text: len(text) / 10)
    asked = ScoreRequest(prefix_text="abc", prefix_ids=(), step_texts=("d", "efg"), step_ids=((), ()))
    assert asyncio.run(value.score(asked)) == [0.4, 0.6]


def test_there_is_no_chat_template_to_render() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        ScriptedPolicy(rolls).render_chat([])


def test_a_broken_policy_fails_every_period() -> None:
    async def outcomes() -> list[bool]:
        policy = BrokenPolicy(rolls, period=3)
        found = []
        for _ in range(6):
            try:
                found.append(len(await policy.propose(request())) == 3)
            except BackendError:
                found.append(False)
        await policy.aclose()
        return found

    assert asyncio.run(outcomes()) == [True, True, False, True, True, False]


def test_chain_problems_are_repeatable_distinct_and_their_answers_computed() -> None:
    world = ChainWorld(num_operations=5)
    problems = world.problems(50)
    assert problems == world.problems(50)
    assert problems != world.problems(50, seed=1)
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == 50
    for problem in problems:
        first, *operations = re.findall(r"with (\d+)|(add|subtract|times) (\d+)", problem.question)
        value = int(first[0])
        for _, word, operand in operations:
            value = {
                "add": value + int(operand),
                "subtract": value - int(operand),
                "times": value * int(operand),
            }[word]
        assert len(operations) == 5
        assert problem.answer == str(value)


@pytest.mark.parametrize("num_operations", [0, 1, 4])
def test_without_slips_the_chain_policy_is_always_right(num_operations: int) -> None:
    world = ChainWorld(num_operations=num_operations, slip=0, crash=0, nonsense=0)
    for problem in world.problems(5):
        tree = new_tree(problem.question, problem_id=problem.id)
        search_one(tree, engines(world.policy()), greedy(SearchConfig()), judge=TextJudge(problem.answer))
        assert tree.solved
        assert len(tree.nodes) == num_operations + 4  # root, start, operations, print, answer


def test_the_chain_policy_slips_crashes_and_talks_nonsense_at_the_stated_rates() -> None:
    world = ChainWorld(num_operations=1, slip=0.2, crash=0.15, nonsense=0.1)
    prefix = render_prompt(BARE, "Start with 7. Then add 3.") + "x = 7\n<end_of_step>\n"
    texts = [world.respond(prefix, random.Random(seed)) for seed in range(4000)]
    crashed = sum("/ 0" in text for text in texts) / len(texts)
    nonsense = sum("hmm" in text for text in texts) / len(texts)
    right = sum("x = x + 3" in text for text in texts) / len(texts)
    assert crashed == pytest.approx(0.15, abs=0.025)
    assert nonsense == pytest.approx(0.1, abs=0.025)
    assert right == pytest.approx(
        1 - 0.15 - 0.1 - 0.2 * 23 / 24, abs=0.03
    )  # one slip in 24 is the right step


def test_requests_do_not_touch_each_other() -> None:
    """As of every policy; see `tests.rstar.backends.contract` for those over a model."""
    policy = ChainWorld(num_operations=3).policy()
    asyncio.run(check_requests_do_not_touch_each_other(policy))
