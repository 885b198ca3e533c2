"""One spelling for each answer: Unicode, LaTeX's alternatives and what a Python program prints become one form.

`normalise` changes how an answer is written, never what it says. The rules are listed in docs/grading.md; the order
below matters. The result is again LaTeX, with one command of our own: `\\unit{cm}` after a quantity.
What this file does not cover: reading the result (`structure`, `numbers`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from rstar.grading.units import mark_units

_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\t\n\r", " "),
    **dict.fromkeys("\u200b\u200c\u200d\ufeff\u2061\u2062", ""),
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∗": "*",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "±": r"\pm ",
    "∓": r"\mp ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "′": "'",
    "’": "'",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "。": ".",
    "、": ",",
}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))

_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\(?:left|right|bigg?[lr]?|Bigg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])\.?", ""),
    (r"(?<=\d)(?:,\\!|\{,\}|\\,)\s*(?=\d{3}(?!\d))", ""),
    (r"(?<!\\)\\(?:[!,;:> ]|(?:quad|qquad|enspace|thinspace)(?![A-Za-z]))|~", " "),
    (r"(?<!\\)\\(?=\d)", ""),
    (r"\\\$\s*([\d,.]*\d)(?!\s*\\(?:text|mbox|mathrm|unit))", r"\1\\unit{dollar}"),
    (r"\\\$|\$|(?<!\\)\\[()\[\]]", ""),
    (r"\\(?:leqslant|leqq|leq|le)(?![f])", "<="),
    (r"\\(?:geqslant|geqq|geq|ge)(?![n])", ">="),
    (r"\\lt(?![a-z])", "<"),
    (r"\\gt(?![a-z])", ">"),
    (r"\\neq?(?![a-z])", r"\\ne "),
    (r"\\(cdot|pm|mp|times)(?=[A-Za-z])(?!s)", r"\\\1 "),
    (r"\\(?:varnothing|oslash|O)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\\mid(?!dle)|\\(?:lvert|rvert|vert)(?![A-Za-z])", "|"),
    (r"\\(?:lbrace|lbrack)(?![A-Za-z])", lambda m: r"\{" if "brace" in m[0] else "["),
    (r"\\(?:rbrace|rbrack)(?![A-Za-z])", lambda m: r"\}" if "brace" in m[0] else "]"),
    (r"\\(?:begin|end)\{[bpv]?matrix\}", lambda m: m[0].replace("bmatrix", "pmatrix")),
    (r"[\[(]\s*\\begin\{array\}\s*\{[lcr| ]*\}", r"\\begin{pmatrix}"),
    (r"\\end\{array\}\s*[\])]", r"\\end{pmatrix}"),
    (r"\*\*", "^"),
    (r"\*", r"\\cdot "),
    (r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", r"\\unit{degree}"),
)
_COMPILED_RULES = tuple((re.compile(pattern), replacement) for pattern, replacement in _RULES)

_CANONICAL = re.compile(r"-?\d+(?:\.\d+|/\d+)?|-?\d*\\frac\{\d+\}\{\d+\}", re.ASCII)
"""What most answers are and nothing changes: numbers."""

_BOXED = re.compile(r"\s*\\(?:boxed|fbox)\s*\{")
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|rm|bf)\s*\{([^{}]*)\}"
)
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|max|min|gcd|lcm"
_BARE_FUNCTION = re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*[({{\[\d^_\\]|\s+[a-zA-Z](?![A-Za-z]))")
_BARE_CONSTANT = re.compile(r"(?<![\\A-Za-z])(pi|oo|inf|infinity)(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)|\{([^{}]*)\})\s*(?:(\d)|\{([^{}]*)\})")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(?=[0-9A-Za-z])(\d+|[A-Za-z])|\\sqrt\s*(\\pi)(?![A-Za-z])")
_POWER = re.compile(r"([\^_])\s*(-?\d+|[A-Za-z](?![A-Za-z]))|([\^_])\s*\{\s*([^{}\s]+)\s*\}")
_OR = re.compile(r"(?<![A-Za-z\\])\s*,?\s*(?<![A-Za-z\\])(?:or|and)(?=[^A-Za-z]|[A-Za-z](?:[=<>]|\\[gln]e))")
_KEPT_SPACE = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|(?<=\d)\s+(?=\d)|\s+")
_GROUPED = re.compile(r"((?:[A-Za-z]=)?[+-]?)(\d{1,3}(?:[, ]\d{3})+)((?:\.\d+)?(?:\\unit\{.*\}|\\%)?)")
_MERIDIEM = re.compile(r"(?<=:\d\d)\s*([ap])\.?\s?m\.?$", re.IGNORECASE)
_ALIASES = {
    "allrealnumbers": r"(-\infty,\infty)",
    "allreals": r"(-\infty,\infty)",
    r"\mathbb{R}": r"(-\infty,\infty)",
    "nosolution": r"\emptyset",
    "nosolutions": r"\emptyset",
    "norealsolution": r"\emptyset",
    "norealsolutions": r"\emptyset",
    "emptyset": r"\emptyset",
    "theemptyset": r"\emptyset",
}


def normalise(text: str) -> str:
    """The canonical spelling of an answer. Idempotent; linear in the length of `text` but for a small factor."""
    if _CANONICAL.fullmatch(text):
        return text
    for _ in range(8):  # a rule may make room for an earlier one: `\\text{\\$ 5}`; two passes are usual
        before, text = text, _normalise_once(text)
        if text == before:
            break
    return text


def _normalise_once(text: str) -> str:
    if not text.isascii():
        text = _to_ascii(text)
    text = _unboxed(text.strip())
    for pattern, replacement in _COMPILED_RULES:
        text = pattern.sub(replacement, text)
    text = mark_units(text)
    text = _TEXT_COMMAND.sub(lambda match: f" {match[1]} ", text)
    text = _MERIDIEM.sub(lambda match: match[1].lower() + "m", text)
    text = _BARE_FUNCTION.sub(r"\\\1", text)
    text = _BARE_CONSTANT.sub(lambda match: r"\pi " if match[1] == "pi" else r"\infty ", text)
    text = _root_parentheses(text)
    text = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = _SHORT_ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = _power_parentheses(text)
    text = _POWER.sub(lambda match: f"{match[1] or match[3]}{{{match[2] or match[4]}}}", text)
    text = _OR.sub(",", text)
    text = re.sub(r"(?<!\\)%", r"\\%", text)
    text = _KEPT_SPACE.sub(_keep_space, text).strip().rstrip(".").rstrip(",;")
    text = _braces_of_set(text)
    if (match := _GROUPED.fullmatch(text)) is not None:
        text = f"{match[1]}{match[2].replace(',', '').replace(' ', '')}{match[3]}"
    return _ALIASES.get(text if "\\" in text else text.lower(), text)


def _keep_space(match: re.Match[str]) -> str:
    if match[1]:
        return f"{match[1]} "
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return " " if before.isdigit() and after.isdigit() else ""


def _to_ascii(text: str) -> str:
    """Characters that mean what some ASCII or LaTeX means. Others stay, and only ever equal themselves."""
    parts: list[str] = []
    root = False
    for character in unicodedata.normalize("NFC", text):
        if character in _CHARACTERS:
            out = _CHARACTERS[character]
        elif character in _SUPERSCRIPTS:
            out = f"^{{{_SUPERSCRIPTS[character]}}}"
        elif character in _SUBSCRIPTS:
            out = f"_{{{_SUBSCRIPTS[character]}}}"
        elif character == "√":
            out, root = r"\sqrt", True
        elif character == "∛":
            out = r"\sqrt[3]"
        elif "\uff01" <= character <= "\uff5e":
            out = chr(ord(character) - 0xFEE0)
        elif (digit := unicodedata.decimal(character, None)) is not None:
            out = str(digit)
        elif unicodedata.decomposition(character).startswith("<fraction>"):
            numerator, _, denominator = unicodedata.normalize("NFKC", character).partition("⁄")
            out = rf"\frac{{{numerator}}}{{{denominator}}}" if denominator else character
        else:
            out = character
        parts.append(out)
    joined = "".join(parts)
    joined = re.sub(r"\^\{([^{}])\}(?:\^\{([^{}])\})+", _join_scripts, joined)
    joined = re.sub(r"_\{(\d)\}(?:_\{(\d)\})+", _join_scripts, joined)
    return joined if not root else re.sub(r"\\sqrt\s*(\d+(?:\.\d+)?)", r"\\sqrt{\1}", joined)


def _join_scripts(match: re.Match[str]) -> str:
    return f"{match[0][0]}{{{re.sub(r'[_^{}]', '', match[0])}}}"


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`, counting its own kind only; -1 if none does."""
    opening = text[start]
    closing = {"(": ")", "{": "}", "[": "]"}[opening]
    level = 0
    for index in range(start, len(text)):
        if text[index] == opening:
            level += 1
        elif text[index] == closing:
            level -= 1
            if level == 0:
                return index
    return -1


def _unboxed(text: str) -> str:
    while (match := _BOXED.match(text)) is not None:
        end = _closing(text, match.end() - 1)
        if end < 0 or text[end + 1 :].strip(" .$"):
            return text
        text = text[match.end() : end].strip()
    return text


def _root_parentheses(text: str) -> str:
    r"""`\sqrt(3+x)`, as a program prints it, is `\sqrt{3+x}`."""
    return _rebrace(text, re.compile(r"\\sqrt\s*(?=\()"), r"\sqrt")


def _power_parentheses(text: str) -> str:
    return _rebrace(text, re.compile(r"\^\s*(?=\()"), "^")


def _rebrace(text: str, head: re.Pattern[str], written: str) -> str:
    position, parts = 0, []
    for _ in range(20):
        match = head.search(text, position)
        if match is None or (end := _closing(text, match.end())) < 0:
            break
        parts.append(f"{text[position : match.start()]}{written}{{{text[match.end() + 1 : end]}}}")
        position = end + 1
    return "".join(parts) + text[position:]


def _braces_of_set(text: str) -> str:
    r"""`{1,2}`, as Python prints a set, is `\{1,2\}`; `{5}` is a LaTeX group around 5."""
    if not text.startswith("{") or _closing(text, 0) != len(text) - 1:
        return text
    inner = text[1:-1]
    return rf"\{{{inner}\}}" if "," in inner else inner
