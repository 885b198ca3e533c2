"""Attempts at problems, written down in a few letters and drawn at random: what the tests of evaluation share."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from policy.attempts import Attempt, ProblemAttempts, by_problem

Answer = tuple[str, float | None] | tuple[str, float | None, int]
"""Answer, score, and how often it was sampled (once). The right answer is "R"."""


def attempts_at(
    trees: Sequence[Sequence[Answer]], *, problem_id: str = "p", level: str = "easy", tokens: int = 10
) -> list[Attempt]:
    """The lines of one problem's trees; tree i spent (i + 1) * `tokens` tokens."""
    texts = list(dict.fromkeys(answer[0] for tree in trees for answer in tree))
    lines = []
    for index, tree in enumerate(trees):
        spent = (index + 1) * tokens
        if not tree:
            lines.append(Attempt(problem_id=problem_id, level=level, tree_index=index, tokens=spent))
        for at, (text, score, *rest) in enumerate(tree):
            multiplicity = rest[0] if rest else 1
            assert isinstance(multiplicity, int)
            lines.append(
                Attempt(
                    problem_id=problem_id, level=level, tree_index=index, tokens=spent, node_id=at + 1, answer=text,
                    answer_class=texts.index(text), multiplicity=multiplicity, score=score, mean_q=score,
                    verified=text == "R",
                )
            )  # fmt: skip
    return lines


def problem(trees: Sequence[Sequence[Answer]], **changes: str | int) -> ProblemAttempts:
    (found,) = by_problem(attempts_at(trees, **changes))  # type: ignore[arg-type]
    return found


scores = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])
"""Few, so that equal ones are common."""


def answers(max_multiplicity: int = 3) -> st.SearchStrategy[Answer]:
    return st.tuples(st.sampled_from("RABC"), scores, st.integers(1, max_multiplicity))


def trees(max_trees: int = 5) -> st.SearchStrategy[list[list[Answer]]]:
    return st.lists(st.lists(answers(), max_size=4), min_size=1, max_size=max_trees)


def samples(max_samples: int = 8) -> st.SearchStrategy[list[list[Answer]]]:
    """Trees of one path: an answer or none."""
    return st.lists(st.lists(answers(1), max_size=1), min_size=1, max_size=max_samples)
