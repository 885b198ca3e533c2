"""Answers for properties: LaTeX and Python spellings of numbers, constants, expressions and structures."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

FOLDER = Path(__file__).parent
DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
"""The shared data folder; absent in a plain clone."""


def table(name: str) -> list[tuple[str, str, str]]:
    """Rows (a, b, why) of a case table."""
    return [
        (row["a"], row["b"], row["why"]) for row in json.loads((FOLDER / name).read_text(encoding="utf-8"))
    ]


small = st.integers(0, 12)
whole_numbers = st.integers(-(10**12), 10**12).map(str)
decimals = st.decimals(-10000, 10000, places=3, allow_nan=False, allow_infinity=False).map(str)
fractions = st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(-99, 99), st.integers(1, 99))
percents = st.builds(r"{}\%".format, small)
numbers = st.one_of(whole_numbers, decimals, fractions, percents)

constants = st.recursive(
    st.one_of(small.map(str), st.just(r"\pi"), fractions.filter(lambda text: "-" not in text)),
    lambda inner: st.one_of(
        st.builds(r"\sqrt{{{}}}".format, inner),
        st.builds(r"\frac{{{}}}{{{}}}".format, inner, st.integers(1, 9)),
        st.builds(r"({}+{})".format, inner, inner),
        st.builds(r"({}-{})".format, inner, inner),
        st.builds(r"{}\cdot {}".format, st.integers(1, 9), inner),
        st.builds(r"({})^{{2}}".format, inner),
    ),
    max_leaves=4,
)
structures = st.one_of(
    st.builds("({},{})".format, numbers, numbers),
    st.builds("[{},{})".format, numbers, numbers),
    st.builds(r"\{{{},{}\}}".format, numbers, numbers),
    st.builds("{},{}".format, fractions, fractions),
    st.builds("x={}".format, numbers),
    st.builds(r"{}\text{{ cm}}".format, numbers),
    st.sampled_from(["A", "(B)", "C.", r"\text{east}", "yes", "2:3", "52_8", r"(-\infty,3]", "x<3"]),
)
answers = st.one_of(numbers, constants, structures)
"""Answers that pure Python decides, alone and against each other, but for rare coincidences."""
rubbish = st.text(st.sampled_from(list("0123456789abxyzABC\\{}()[]^_,.;:$%|+-*/=<> ½√π−°２\n")), max_size=40)
