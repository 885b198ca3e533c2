"""Shared n-grams are those that a comparison of all with all finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rounds.preparation.contamination import EvaluationIndex, Overlap
from rounds.preparation.text import words

questions = st.lists(st.sampled_from(["a", "b", "7", "plus"]), max_size=12).map(" ".join)


def naive(question: str, evaluation: list[tuple[str, str]], n: int) -> list[tuple[str, tuple[str, ...]]]:
    """Every run of n words of the question, with the first evaluation problem that has it as well."""
    found = []
    of = words(question)
    for start in range(len(of) - n + 1):
        run = of[start : start + n]
        for problem_id, other in evaluation:
            theirs = words(other)
            if any(theirs[at : at + n] == run for at in range(len(theirs) - n + 1)):
                found.append((problem_id, tuple(run)))
                break
    return found


@given(questions, st.lists(questions, max_size=4), st.integers(1, 5))
def test_shared_runs_of_words_are_those_of_the_naive_search(
    question: str, evaluation: list[str], n: int
) -> None:
    named = [(f"e{i}", text) for i, text in enumerate(evaluation)]
    shared = EvaluationIndex(named, ngram=n).shared(question)
    assert [(overlap.evaluation_id, overlap.gram) for overlap in shared] == naive(question, named, n)


def test_a_short_question_is_met_as_a_whole_only() -> None:
    index = EvaluationIndex([("e", "What is 2 + 2?")], ngram=13)
    assert index.equal("what is 2+2") == Overlap("e")
    assert index.shared("I ask you: what is 2 + 2, and nothing more than that, my dear friend?") == []


def test_an_overlap_says_what_is_shared_with_whom() -> None:
    index = EvaluationIndex([("e-1", "one two three four")], ngram=3)
    (first, second) = index.shared("ONE, two, three: four!")
    assert str(first) == "shares 3 words with e-1: one two three"
    assert second.gram == ("two", "three", "four")
    assert str(Overlap("e-1")) == "asks the same as e-1"
