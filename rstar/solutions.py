"""The final answer that a worked solution states, in the ways of the field's data sets.

What this file does not cover: whether it is right (`rstar.grading`), and the steps of our own solutions (`rstar.steps`).
"""

from __future__ import annotations

import re

from rstar.steps import boxed

_HASHES = re.compile(r"^\s*####\s*(\S.*?)\s*$", re.MULTILINE)
_SENTENCE = re.compile(r"\b[Tt]he (?:final )?answer is:?\s*(\S.*?)\s*$", re.MULTILINE)


def final_answer(solution: str) -> str | None:
    """What stands after the last `####` of a line (GSM8K), else in the last `\\boxed{…}` (MATH, NuminaMath), else after
    the last "The answer is" up to the end of its line (MetaMath); None if there is none of these."""
    if hashes := _HASHES.findall(solution):
        return str(hashes[-1])
    if inside := boxed(solution):
        return inside
    if sentences := _SENTENCE.findall(solution):
        return str(sentences[-1]).removesuffix(".").strip("$")
    return None
