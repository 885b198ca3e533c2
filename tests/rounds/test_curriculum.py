"""The embedded problem set: answers agree with the reference code, splits are disjoint, noise is what it says."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounds.curriculum import (
    IDEAS,
    Exercise,
    Family,
    Level,
    Split,
    curriculum,
    exercises,
    generate,
    generate_exercises,
    split_of,
)
from rounds.curriculum.lessons import NOISE, SHARES, Noise, begin, lessons, run, teach
from rstar.problems import normalised_question
from rstar.steps import Solution, StepKind, codes, parse_solution, render_solution

NO_NOISE = Noise(tricky_misconception=0, misconception=0, slip=0, stop=0, swap=0)

levels = st.sampled_from(Level)
splits = st.sampled_from(Split)
seeds = st.integers(0, 2**32)


@given(splits, levels, seeds)
@settings(max_examples=60, deadline=None)
def test_answer_equals_what_the_reference_program_prints(split: Split, level: Level, seed: int) -> None:
    for exercise in generate_exercises(split, level, 5, seed):
        assert run(codes(exercise.demonstration())) == f"{exercise.problem.answer}\n"


@given(levels, seeds)
@settings(max_examples=30, deadline=None)
def test_answers_are_positive_integers_or_fractions(level: Level, seed: int) -> None:
    for problem in generate(Split.TRAIN, level, 5, seed):
        assert re.fullmatch(r"\d+(/\d+)?", problem.answer)
        assert Fraction(problem.answer) > 0


@given(splits, levels, seeds)
@settings(max_examples=30, deadline=None)
def test_same_seed_gives_the_same_problems_and_a_longer_list_begins_with_the_shorter(
    split: Split, level: Level, seed: int
) -> None:
    assert generate(split, level, 7, seed)[:4] == generate(split, level, 4, seed)


def test_another_seed_gives_other_problems() -> None:
    first = {problem.question for problem in generate(Split.TRAIN, Level.MEDIUM, 200, 0)}
    second = {problem.question for problem in generate(Split.TRAIN, Level.MEDIUM, 200, 1)}
    assert len(first & second) < 10


@pytest.mark.parametrize("level", list(Level))
def test_thousands_of_distinct_questions_and_no_question_in_both_splits(level: Level) -> None:
    train = [normalised_question(problem.question) for problem in generate(Split.TRAIN, level, 4000, 0)]
    held_out = [normalised_question(problem.question) for problem in generate(Split.EVAL, level, 1000, 1)]
    assert len(set(train)) == 4000
    assert len(set(held_out)) == 1000
    assert not set(train) & set(held_out)


@given(st.text(min_size=1))
def test_split_does_not_see_case_or_white_space(question: str) -> None:
    assert split_of(f"  {question} \n") is split_of(question)
    assert split_of(question.upper().casefold()) is split_of(question.upper())


@given(splits, levels, seeds)
@settings(max_examples=30, deadline=None)
def test_every_problem_belongs_to_the_split_it_was_generated_for(
    split: Split, level: Level, seed: int
) -> None:
    assert all(split_of(problem.question) is split for problem in generate(split, level, 5, seed))


@given(levels, seeds)
@settings(max_examples=30, deadline=None)
def test_level_bounds_the_number_of_code_steps(level: Level, seed: int) -> None:
    bounds = {Level.EASY: (2, 3), Level.MEDIUM: (3, 4), Level.OLYMPIAD: (5, 8)}
    low, high = bounds[level]
    for exercise in generate_exercises(Split.TRAIN, level, 5, seed):
        assert low <= len(codes(exercise.demonstration())) <= high
        if level is Level.OLYMPIAD:
            assert len({idea.family for idea in exercise.ideas}) >= 3


def test_every_family_asks_at_every_level_and_every_idea_occurs() -> None:
    ideas: Counter[str] = Counter()
    for level in Level:
        drawn = generate_exercises(Split.TRAIN, level, 1500, 0)
        families = Counter(exercise.family for exercise in drawn)
        assert set(families) == set(Family)
        assert min(families.values()) >= 20
        ideas.update(idea.name for exercise in drawn for idea in exercise.ideas)
    assert set(ideas) == {idea.name for idea in IDEAS}


def test_wording_varies_for_every_idea() -> None:
    questions: dict[str, set[str]] = {}
    for exercise in generate_exercises(Split.TRAIN, Level.EASY, 4000, 0):
        words = re.sub(r"\d+", "0", exercise.problem.question)
        questions.setdefault(exercise.ideas[0].name, set()).add(words)
    assert min(len(wordings) for wordings in questions.values()) >= 8


def test_questions_are_plain_ascii() -> None:
    for level in Level:
        assert all(problem.question.isascii() for problem in generate(Split.EVAL, level, 300, 0))


@given(levels, seeds)
@settings(max_examples=30, deadline=None)
def test_reference_demonstration_is_in_the_step_format(level: Level, seed: int) -> None:
    for exercise in generate_exercises(Split.TRAIN, level, 3, seed):
        steps = tuple(exercise.demonstration())
        solution = Solution(steps, run(codes(steps)))
        assert parse_solution(render_solution(solution)).steps == steps
        assert [step.kind for step in steps[-2:]] == [StepKind.FINAL_CODE, StepKind.ANSWER]


@given(levels, seeds)
@settings(max_examples=30, deadline=None)
def test_misconceptions_are_never_the_right_code(level: Level, seed: int) -> None:
    for exercise in generate_exercises(Split.TRAIN, level, 5, seed):
        for step in exercise.steps:
            assert step.misconception != step.code
            assert step.variable in step.misconception or not step.misconception


def test_every_hard_idea_has_a_misconception() -> None:
    seen = {
        idea.name
        for exercise in generate_exercises(Split.TRAIN, Level.EASY, 3000, 0)
        for idea, block in zip(exercise.ideas, exercise.blocks, strict=True)
        if any(step.misconception for step in block.steps)
    }
    assert seen >= {idea.name for idea in IDEAS if idea.tricky}


def test_curriculum_has_the_counts_asked_for_easy_first_with_distinct_ids() -> None:
    problems = curriculum(Split.TRAIN, {Level.EASY: 5, Level.OLYMPIAD: 3}, seed=0)
    assert [problem.level for problem in problems] == ["easy"] * 5 + ["olympiad"] * 3
    assert len({problem.id for problem in problems}) == 8


@pytest.mark.parametrize(
    ("split", "level", "count", "message"),
    [("tran", "easy", 1, "tran"), ("train", "hard", 1, "hard"), ("train", "easy", -1, "count=-1")],
)
def test_bad_arguments_are_named(split: str, level: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(split, level, count, 0)


def _exercises(level: Level, count: int) -> list[Exercise]:
    return list(itertools.islice(exercises(Split.TRAIN, level, 5), count))


def test_demonstration_without_noise_is_the_reference_solution() -> None:
    for exercise in _exercises(Level.MEDIUM, 50):
        shown = teach(exercise, NO_NOISE, Random(0))
        assert shown is not None
        assert list(shown.solution.steps) == exercise.demonstration()
        assert shown.solution.output == f"{exercise.problem.answer}\n"


def _share_right(level: Level, noise: Noise) -> float:
    drawn = _exercises(level, 1500)
    shown = [teach(exercise, noise, Random(place)) for place, exercise in enumerate(drawn)]
    right = [
        one is not None and one.solution.output == f"{exercise.problem.answer}\n"
        for exercise, one in zip(drawn, shown, strict=True)
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize("fault", ["tricky_misconception", "misconception", "slip", "stop", "swap"])
def test_each_kind_of_noise_spoils_solutions(fault: str) -> None:
    noise = Noise(**{**dict.fromkeys(Noise.__slots__, 0.0), fault: 1.0})
    assert _share_right(Level.MEDIUM, NO_NOISE) == 1
    assert _share_right(Level.MEDIUM, noise) < 0.9


def test_the_teacher_is_right_on_most_easy_problems_and_fewer_medium_ones() -> None:
    easy, medium = (_share_right(level, NOISE[level]) for level in (Level.EASY, Level.MEDIUM))
    assert 0.5 < easy < 0.9
    assert 0.2 < medium < easy


def test_no_lesson_reaches_olympiad_length() -> None:
    for lesson in itertools.islice(lessons(0), 3000):
        assert len(codes(lesson.solution.steps)) <= 4


def test_lessons_show_the_output_their_program_really_has_and_never_a_held_out_question() -> None:
    for lesson in itertools.islice(lessons(1), 500):
        assert split_of(lesson.question) is Split.TRAIN
        if lesson.solution.steps[-1].kind is StepKind.ANSWER:
            assert run(codes(lesson.solution.steps)) == lesson.solution.output
            assert lesson.solution.steps[-1].answer == (lesson.solution.output or "").strip()


def test_lessons_on_olympiad_problems_break_off_before_the_program_ends() -> None:
    for place, exercise in enumerate(_exercises(Level.OLYMPIAD, 50)):
        begun = begin(exercise, NO_NOISE, Random(place)).solution
        assert list(begun.steps) == exercise.demonstration()[: len(begun.steps)]
        assert {step.kind for step in begun.steps} == {StepKind.CODE}
        assert begun.output is None


def test_lessons_are_about_the_levels_in_the_stated_shares() -> None:
    drawn = [lesson.solution for lesson in itertools.islice(lessons(2), 3000)]
    begun = sum(solution.steps[-1].kind is not StepKind.ANSWER for solution in drawn)
    assert begun / len(drawn) == pytest.approx(SHARES[Level.OLYMPIAD], abs=0.02)
