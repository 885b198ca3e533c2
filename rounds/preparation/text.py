"""When are two questions the same text? Two views: its mathematics without the dressing, and its words."""

from __future__ import annotations

import re
import unicodedata

_DRESSING = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|text|mathrm|quad|qquad)(?![a-z])|\\[ ,;:!()\[\]]|[$~]"
)
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_BRACED = re.compile(r"(?<=[\^_])\{(\w)\}")
_PUNCTUATION = re.compile(r'[.,;:?"“”]+(?!\d)')
_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_WORD = re.compile(r"\d+|[^\W\d_]+")


def normalised(question: str) -> str:
    """The question without what does not change its meaning: Unicode form (NFKC), case, white space between symbols,
    punctuation that ends a word, LaTeX's dressing (`$`, `\\left`, `\\,`, `\\dfrac` for `\\frac`, `x^{2}` for `x^2`).

    Numbers, operators, braces and words stay, and their order: questions with other numbers are other questions.
    """
    text = unicodedata.normalize("NFKC", question).casefold()
    text = _FRACTION.sub(r"\\frac", _DRESSING.sub(" ", text))
    text = _PUNCTUATION.sub(" ", _BRACED.sub(r"\1", text))
    return _SPACE.sub("", " ".join(text.split()))


def words(question: str) -> list[str]:
    """Runs of letters and runs of digits, case folded: what n-grams are made of. Operators are no words, so this view
    cannot tell a sum from a difference. A language without spaces has too few words to be compared so."""
    return _WORD.findall(unicodedata.normalize("NFKC", question).casefold())
