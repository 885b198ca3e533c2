"""Final answers are found in worked solutions of the field's data sets."""

from __future__ import annotations

import pytest

from rstar.solutions import final_answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("He sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### 1\nno, rather\n#### 2,500 ", "2,500"),
        (r"So $x = \boxed{\frac{1}{2}}$, not \boxed{3", r"\frac{1}{2}"),
        (r"First \boxed{1}. Hence \boxed{\left\{2\right\}}.", r"\left\{2\right\}"),
        ("Thus 3 + 4 = 7.\nThe answer is: 7", "7"),
        (r"The final answer is $\frac{3}{4}$.", r"\frac{3}{4}"),
        (r"The answer is: 5. But \boxed{6} stands in a box.", "6"),
        ("The answer is left to the reader\nThe answer is: 9", "9"),
        ("It follows by induction.", None),
        ("", None),
        (r"\boxed{}", None),
    ],
)
def test_the_final_answer_is_found(solution: str, answer: str | None) -> None:
    assert final_answer(solution) == answer
