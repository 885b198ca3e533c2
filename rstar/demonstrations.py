"""Worked examples in the step format, for models that were never trained on it.

They show what instructions alone do not get across: a comment before each piece of code, one idea per step, a program that
runs on from step to step, its output left to the engine, and an answer that says no more than the output does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A worked example for few-shot prompting: `solution` in the step format, from `<code>` on."""

    question: str
    solution: str


DEMONSTRATIONS = (
    Demonstration(
        question=(
            "A bakery sells rolls in bags of 12. On Monday it sold 15 bags, on Tuesday a third more bags than on Monday. "
            "How many rolls did it sell on both days together?"
        ),
        solution="""<code>
# Step 1: On Monday 15 bags were sold; on Tuesday a third more than that.
monday_bags = 15
tuesday_bags = monday_bags + monday_bags // 3
<end_of_step>
# Step 2: Add the bags of both days, and turn bags into rolls: 12 in each.
rolls = (monday_bags + tuesday_bags) * 12
<end_of_step>
# Now print the final answer
print(rolls)
<end_of_code>
<output>420<end_of_output>
<answer>The bakery sold \\boxed{420} rolls.<end_of_answer>""",
    ),
    Demonstration(
        question=(
            "The equation $2x^2 - 7x + k = 0$ has two real roots, one of which is twice the other. Find $k$ as a common "
            "fraction."
        ),
        solution="""<code>
# Step 1: Call the smaller root r, so the other is 2r. The sum of the roots is 7/2.
from sympy import Eq, Rational, solve, symbols
r = symbols("r")
root = solve(Eq(r + 2 * r, Rational(7, 2)), r)[0]
<end_of_step>
# Step 2: The product of the roots is k/2, so k is twice the product r * 2r.
k = 2 * (root * 2 * root)
<end_of_step>
# Step 3: Check that the equation with this k really has these two roots.
x = symbols("x")
assert set(solve(2 * x**2 - 7 * x + k, x)) == {root, 2 * root}
<end_of_step>
# Now print the final answer
print(k)
<end_of_code>
<output>49/9<end_of_output>
<answer>The value of k is \\boxed{\\frac{49}{9}}.<end_of_answer>""",
    ),
    Demonstration(
        question="How many positive integers below 1000 are divisible by 6 but have no digit that is 0?",
        solution="""<code>
# Step 1: List the multiples of 6 from 6 to 999.
multiples = list(range(6, 1000, 6))
<end_of_step>
# Step 2: Keep those whose decimal digits are all different from 0.
kept = [n for n in multiples if "0" not in str(n)]
<end_of_step>
# Now print the final answer
print(len(kept))
<end_of_code>
<output>121<end_of_output>
<answer>There are \\boxed{121} such integers.<end_of_answer>""",
    ),
)
"""Arithmetic, algebra with sympy and counting by search."""
