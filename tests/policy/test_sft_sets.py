"""Examples from trees built by hand: which trajectories are taken, and that their tokens are the search's own."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.config import Choice, SFTSetConfig
from policy.sft_sets import DropReason, SFTSet, correct_share, sft_set, similarity
from rstar.config import SearchConfig
from rstar.problems import Problem
from rstar.prompts import BARE, RSTAR, PromptFormat, render_prompt
from rstar.protocols import ExecutionVerdict
from rstar.trajectories import prefix_of, trajectories
from rstar.tree import ROOT, Tree
from tests.policy.forest import add_solution, add_step, encode, sampled, tree_of
from tests.rstar.worlds import RandomWorld, engines, new_tree, search_one


def problem(problem_id: str = "p0", *, level: str = "easy", source: str = "book") -> Problem:
    return Problem(
        id=problem_id, question=tree_of(problem_id).question, answer="7", level=level, source=source
    )


def draw(
    trees: Sequence[Tree],
    problems: Sequence[Problem] = (problem(),),
    *,
    config: SFTSetConfig | None = None,
    format: PromptFormat = BARE,
    max_output_chars: int = 2000,
    seed: int = 0,
) -> SFTSet:
    return sft_set(
        trees, problems, config=config or SFTSetConfig(), format=format, encode=encode,
        max_output_chars=max_output_chars, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("format", [BARE, RSTAR], ids=lambda format: format.name)
def test_fault_8_example_ids_are_those_that_the_search_showed_and_sampled(format: PromptFormat) -> None:
    tree = tree_of()
    *_, final_code, answer = add_solution(tree, ["# Step 1: add", "print(3 + 4)"], "7", q=1.0)
    [example] = draw([tree], format=format).examples
    prompt = render_prompt(format, tree.question)
    shown = prefix_of(tree, final_code, prompt=prompt, encode=encode, max_output_chars=2000)
    assert example.token_ids == (*shown.token_ids, *tree.nodes[answer].token_ids)
    assert example.text == shown.text + tree.nodes[answer].text
    # The sampled ids are not what encoding the text again would give, and they are kept nonetheless.
    assert example.token_ids != tuple(encode(example.text))


def test_loss_mask_is_1_exactly_on_the_policys_own_tokens() -> None:
    tree = tree_of()
    path = add_solution(tree, ["# Step 1: add", "print(3 + 4)"], "7", stdout="output of the program\n")
    [example] = draw([tree]).examples
    masked = tuple(token for token, wrote in zip(example.token_ids, example.loss_mask, strict=True) if wrote)
    assert masked == tuple(token for node_id in path for token in sampled(tree.nodes[node_id].text))
    rest = [token for token, wrote in zip(example.token_ids, example.loss_mask, strict=True) if not wrote]
    prompt = render_prompt(BARE, tree.question)
    engine = f"{prompt}\n\n<output>output of the program<end_of_output>\n"
    assert "".join(map(chr, rest)) == engine
    assert example.num_policy_tokens == len(masked)


def test_the_example_ends_with_the_policys_last_token_and_no_end_of_text() -> None:
    tree = tree_of()
    *_, answer = add_solution(tree, ["print(7)"], "7")
    [example] = draw([tree]).examples
    assert example.token_ids[-1] == tree.nodes[answer].token_ids[-1]
    assert example.loss_mask[-1] == 1


def test_long_program_output_is_cut_as_the_search_cut_it() -> None:
    tree = tree_of()
    add_solution(tree, ["print('x' * 50)"], "7", stdout="x" * 50)
    [example] = draw([tree], max_output_chars=10).examples
    assert f"<output>{'x' * 10}... [40 more characters]<end_of_output>" in example.text


def test_the_two_correct_trajectories_of_highest_mean_q_are_taken_over_all_trees() -> None:
    first, second = tree_of(tree_index=0), tree_of(tree_index=1)
    add_solution(first, ["low = 1", "print(low)"], "7", q=0.1)
    add_solution(first, ["middle = 2", "print(2 * middle)"], "7", q=0.5)
    add_solution(second, ["import math", "print(math.pi)"], "7", q=0.9)
    result = draw([second, first])
    assert [(example.tree_index, example.mean_q) for example in result.examples] == [(1, 0.9), (0, 0.5)]
    assert result.counts["easy"].dropped == {DropReason.SURPLUS: 1}


def test_equal_mean_q_goes_to_the_trajectory_found_first() -> None:
    tree = tree_of()
    add_solution(tree, ["a = 1"], "7", q=0.5)
    add_solution(tree, ["print(99)"], "7", q=0.5)
    [example] = draw([tree], config=SFTSetConfig(num_per_problem=1)).examples
    assert "a = 1" in example.text


@pytest.mark.parametrize("verified", [False, None])
def test_only_verified_trajectories_become_examples(verified: bool | None) -> None:
    tree = tree_of()
    add_solution(tree, ["print(8)"], "8", q=1.0, verified=verified)
    result = draw([tree])
    assert result.examples == ()
    assert result.counts["easy"].dropped == {DropReason.UNSOLVED: 1}


def test_a_failed_step_is_in_no_example() -> None:
    tree = tree_of()
    add_step(tree, ROOT, "1 / 0\n<end_of_step>", q=1.0, execution=ExecutionVerdict.ERROR)
    add_solution(tree, ["print(7)"], "7")
    [example] = draw([tree]).examples
    assert "1 / 0" not in example.text


def test_near_duplicates_of_one_problem_are_not_both_taken() -> None:
    tree = tree_of()
    comment = "# Step 1: we add the three apples to the four apples that are in the basket already"
    add_solution(tree, [comment, "print(3 + 4)"], "7", q=0.9)
    add_solution(tree, [comment.upper(), "print(3  +  4)"], "7", q=0.8)
    add_solution(tree, ["from functools import reduce", "print(reduce(int.__add__, [3, 4]))"], "7", q=0.1)
    result = draw([tree])
    assert [example.mean_q for example in result.examples] == pytest.approx([0.9, 0.1])
    assert result.counts["easy"].dropped == {DropReason.NEAR_DUPLICATE: 1}


def test_similarity_of_1_keeps_all_but_exact_repetitions() -> None:
    tree = tree_of()
    for q, code in [(0.9, "print(3 + 4)"), (0.8, "print(4 + 3)"), (0.7, "print(3 +  4)")]:
        add_solution(tree, ["# a long and common first step " * 20, code], "7", q=q)
    result = draw([tree], config=SFTSetConfig(num_per_problem=3, max_similarity=1.0))
    assert [example.mean_q for example in result.examples] == pytest.approx([0.9, 0.8])


def test_equal_solutions_of_different_problems_are_both_taken() -> None:
    trees = [tree_of("p0"), tree_of("p1")]
    for tree in trees:
        add_solution(tree, ["print(7)"], "7")
    assert len(draw(trees, [problem("p0"), problem("p1")]).examples) == 2


def noisy_tree(num_correct: int, num_wrong: int) -> Tree:
    tree = tree_of()
    add_solution(tree, ["print(7)"], "7", multiplicity=num_correct)
    add_solution(tree, ["print(8)"], "8", verified=False, multiplicity=num_wrong)
    return tree


def test_a_noisy_problem_with_fewer_than_half_of_its_answers_correct_is_left_out() -> None:
    config = SFTSetConfig(noisy_sources=("synthetic",))
    synthetic = [problem(source="synthetic")]
    result = draw([noisy_tree(2, 3)], synthetic, config=config)
    assert result.examples == ()
    assert result.counts["easy"].dropped == {DropReason.LABEL_NOISE: 1}
    assert len(draw([noisy_tree(3, 3)], synthetic, config=config).examples) == 1


def test_the_label_noise_rule_spares_problems_of_other_sources() -> None:
    config = SFTSetConfig(noisy_sources=("synthetic",))
    assert len(draw([noisy_tree(1, 30)], [problem(source="book")], config=config).examples) == 1


def test_correct_share_counts_every_sampled_answer() -> None:
    assert correct_share([noisy_tree(1, 3), noisy_tree(2, 0)]) == 3 / 6


def test_a_too_long_trajectory_is_left_out_and_the_next_one_takes_its_place() -> None:
    tree = tree_of()
    add_solution(tree, [f"# {'very ' * 100}long", "print(7)"], "7", q=0.9)
    add_solution(tree, ["print(7)"], "7", q=0.1)
    result = draw([tree], config=SFTSetConfig(num_per_problem=1, max_tokens=300))
    assert [example.mean_q for example in result.examples] == [0.1]
    assert result.counts["easy"].dropped == {DropReason.TOO_LONG: 1}


def test_random_choice_takes_correct_trajectories_by_seed() -> None:
    tree = tree_of()
    for index in range(8):
        add_solution(tree, [f"x{index} = {index}", f"print('{index}' * {index})"], "7", q=index / 10)
    add_solution(tree, ["print(8)"], "8", q=1.0, verified=False)
    config = SFTSetConfig(choice=Choice.RANDOM)
    taken = {draw([tree], config=config, seed=seed).examples for seed in range(20)}
    assert len(taken) > 5
    assert all(example.answer == "7" for examples in taken for example in examples)
    assert draw([tree], config=config, seed=3) == draw([tree], config=config, seed=3)


def independent_samples(count: int) -> list[Tree]:
    """Trees of one rollout with one candidate each, as the search makes them; the answer 1 is right."""
    config = SearchConfig(num_rollouts=1, num_candidates=1)
    parts = engines(RandomWorld(variants=9, crash=0.05).respond)
    return [
        search_one(new_tree(problem().question, problem_id="p0", seed=index, tree_index=index), parts, config)
        for index in range(count)
    ]


def test_rejection_sampling_draws_at_random_from_the_correct_ones_of_independent_samples() -> None:
    trees = independent_samples(60)
    correct = [t for tree in trees for t in trajectories(tree) if t.verified]
    assert 10 < len(correct) < 40, "some samples are right, some wrong, some never answer"
    assert {t.mean_q for t in correct} == {1.0}, "one sample's Q-values tell correct ones apart from nothing"
    config = SFTSetConfig(choice=Choice.RANDOM, max_similarity=1.0)
    taken = [draw(trees, config=config, seed=seed).examples for seed in range(80)]
    assert all(len({example.tree_index for example in examples}) == 2 for examples in taken)
    solution_of = {t.tree_index: t.text for t in correct}
    drawn = {solution_of[example.tree_index] for examples in taken for example in examples}
    assert drawn == set(solution_of.values()), "every correct sample may be drawn, and no other"


def test_rejection_sampling_draws_a_solution_as_often_as_it_was_sampled() -> None:
    trees = [tree_of(tree_index=index) for index in range(10)]
    for tree in trees:
        add_solution(tree, ["print(3 + 4)" if tree.tree_index else "x = 7\nprint(x)"], "7", q=1.0)
    config = SFTSetConfig(choice=Choice.RANDOM, num_per_problem=1)
    rare = sum(
        example.tree_index == 0 for seed in range(400) for example in draw(trees, config=config, seed=seed).examples
    )  # fmt: skip
    assert 20 < rare < 60


def test_retokenize_encodes_the_steps_anew_and_leaves_the_tree_alone() -> None:
    tree = tree_of()
    path = add_solution(tree, ["print(7)"], "7")
    [example] = draw([tree], config=SFTSetConfig(retokenize=True)).examples
    assert example.token_ids == tuple(encode(example.text))
    assert all(tree.nodes[node_id].token_ids == sampled(tree.nodes[node_id].text) for node_id in path)


def test_problems_without_a_tree_count_as_unsolved_at_their_level() -> None:
    tree = tree_of()
    add_solution(tree, ["print(7)"], "7")
    counts = draw([tree], [problem(), problem("p1", level="olympiad")]).counts
    assert list(counts) == ["easy", "olympiad"]
    assert counts["easy"].num_examples == 1
    assert counts["olympiad"].dropped == {DropReason.UNSOLVED: 1}


def test_a_tree_of_an_unknown_problem_is_refused() -> None:
    with pytest.raises(KeyError, match="stranger"):
        draw([tree_of("stranger")])


@st.composite
def forests(draw: st.DrawFn) -> list[Tree]:
    """Trees of two problems whose solutions repeat, differ, are right, wrong and long."""
    trees = []
    for problem_id in ("p0", "p1"):
        for tree_index in range(draw(st.integers(0, 2))):
            tree = tree_of(problem_id, tree_index)
            for _ in range(draw(st.integers(0, 4))):
                code = draw(
                    st.sampled_from(["print(7)", "print( 7 )", "print(3 + 4)", "y = 7", "# long" * 40])
                )
                q, verified = draw(st.sampled_from([-0.5, 0.0, 0.5])), draw(st.booleans())
                add_solution(tree, [code], "7" if verified else "8", q=q, verified=verified)
            trees.append(tree)
    return trees


@given(trees=forests(), seed=st.integers(0, 99), choice=st.sampled_from(Choice), noisy=st.booleans())
def test_every_correct_trajectory_is_taken_or_has_one_reason(
    trees: list[Tree], seed: int, choice: Choice, noisy: bool
) -> None:
    sources = ("book",) if noisy else ()
    config = SFTSetConfig(choice=choice, max_tokens=200, num_per_problem=2, noisy_sources=sources)
    problems = [problem("p0"), problem("p1")]
    result = draw(trees, problems, config=config, seed=seed)
    counts = result.counts["easy"]
    correct = [t for tree in trees for t in trajectories(tree) if t.verified]
    assert counts.num_correct_trajectories == len(correct)
    reasons = (DropReason.NEAR_DUPLICATE, DropReason.TOO_LONG, DropReason.SURPLUS)
    accounted = counts.num_examples + sum(counts.dropped[reason] for reason in reasons)
    if noisy:
        assert accounted <= len(correct)
    else:
        assert accounted == len(correct)
    assert counts.num_examples == len(result.examples)
    assert counts.num_tokens == sum(len(example.token_ids) for example in result.examples)
    assert counts.num_policy_tokens == sum(example.num_policy_tokens for example in result.examples)
    for problem_id in ("p0", "p1"):
        assert sum(example.problem_id == problem_id for example in result.examples) <= 2
    shuffled = random.Random(seed).sample(trees, len(trees))
    assert draw(shuffled, problems[::-1], config=config, seed=seed) == result


@given(words=st.lists(st.sampled_from("abcd")), others=st.lists(st.sampled_from("abcd")))
def test_similarity_is_1_exactly_for_equal_words(words: list[str], others: list[str]) -> None:
    assert (similarity(words, others) == 1) == (words == others)
