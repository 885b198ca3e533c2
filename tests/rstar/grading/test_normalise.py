"""Normalisation: one spelling, the same after a second pass, fast on hostile text."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rstar.grading import normalise
from rstar.grading.units import split_unit
from tests.rstar.grading.cases import DATA, answers, rubbish, table


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("−３", "-3"),
        (r"\dfrac12", r"\frac{1}{2}"),
        ("1,234,567", "1234567"),
        ("1,23", "1,23"),
        ("2500,7500", "2500,7500"),
        ("(1,234)", "(1,234)"),
        ("3 4", "3 4"),
        (r"2 \pi r", r"2\pi r"),
        (r"\begin{pmatrix} -2 \\ -14 \end{pmatrix}", r"\begin{pmatrix}-2\\-14\end{pmatrix}"),
        (r"-2\leqx<1", "-2<=x<1"),
        ("2*sqrt(3)/x**2", r"2\cdot\sqrt{3}/x^{2}"),
        ("x²y₁", "x^{2}y_{1}"),
        ("50 %", r"50\%"),
        (r"\boxed{\text{(C)}}", "(C)"),
        ("5m", "5m"),
        (r"5\text{ m}", r"5\unit{m}"),
        ("5 cm^2", r"5\unit{cm2}"),
        (r"6.6\mathrm{mi}/\mathrm{hr}", r"6.6\unit{mi/h}"),
        (r"\$32,\!348", r"32348\unit{dollar}"),
        (r"\4", "4"),
    ],
)
def test_one_spelling(written: str, normal: str) -> None:
    assert normalise(written) == normal


@settings(max_examples=300)
@given(st.one_of(answers, rubbish, st.text(max_size=30)))
@example(r"\text{\$ 5}")
@example(r"\boxed{\boxed{5}}")
def test_normalisation_is_idempotent(text: str) -> None:
    normal = normalise(text)
    assert normalise(normal) == normal


@pytest.mark.parametrize("name", ["must_equal.json", "must_differ.json"])
def test_normalisation_is_idempotent_on_the_case_tables(name: str) -> None:
    for a, b, _ in table(name):
        assert normalise(normalise(a)) == normalise(a)
        assert normalise(normalise(b)) == normalise(b)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder beside the tree")
def test_normalisation_is_idempotent_on_all_shared_answers() -> None:
    for path in sorted(DATA.glob("*_test.json")):
        for row in json.loads(path.read_text()):
            normal = normalise(row["answer"])
            assert normalise(normal) == normal, row["answer"]


@pytest.mark.parametrize(
    "unit",
    [r"5\unit{cm}", r"5\text{ cm}", "5 cm", "5cm", r"5\mathrm{~cm}", "5 centimeters", r"5\;\mbox{cm}."],
)
def test_a_unit_is_found_in_every_spelling(unit: str) -> None:
    assert split_unit(normalise(unit)) == ("5", "cm")
