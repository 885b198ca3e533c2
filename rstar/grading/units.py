"""Units after a quantity: found, and marked as `\\unit{cm}` so that the rest of the answer can be compared alone.

The rules (docs/grading.md): a unit of one letter counts only in `\\text{…}` (or `\\mathrm`, `\\mbox`), because `5 m` may
be five times m; a longer one also when it is simply written behind the quantity. One side may leave its unit out; two units
have to be the same, and nothing is converted. The percent sign is no unit but a factor 1/100 (`numbers`).
"""

from __future__ import annotations

import re

_NAMES = {
    "degree": "degrees deg",
    "radian": "radians rad",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres",
    "m": "meter meters metre metres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "mg": "milligram milligrams",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "ton": "tons",
    "L": "l liter liters litre litres",
    "mL": "ml milliliter milliliters",
    "gal": "gallon gallons",
    "cup": "cups",
    "s": "sec secs second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "dollar": "dollars",
    "cent": "cents",
    "mph": "",
    "N": "newton newtons",
    "J": "joule joules",
    "W": "watt watts",
    "V": "volt volts",
    "Hz": "hertz",
    "unit": "units",
    "point": "points",
    "person": "people persons",
    "student": "students",
    "way": "ways",
    "time": "times",
    "piece": "pieces",
}
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
_SHAPES = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}

_WORD = "|".join(sorted(map(re.escape, _CANONICAL), key=len, reverse=True))
_LONG_WORD = "|".join(word for word in _WORD.split("|") if len(word) > 1)
_POWER = r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?"
_SHAPE = r"(?:(?:square|sq|cubic|cu)\.?\s*)?"
_PER = rf"(?:\s*(?:/|per\s)\s*(?:{_WORD}){_POWER})?"
_TEXT = r"\\(?:text|textrm|mathrm|mbox|operatorname)\s*\{\s*"
_WRAPPED_PER = rf"(?:\s*/\s*{_TEXT}(?:{_WORD})\s*\}})?"
_QUANTITY_END = r"(?:(?<=[\d})\].])|(?<=\\pi))"
_END = r"\s*\.?\s*(?=$|,(?!\d{3}(?!\d))|;|\\\}|[)\]])"

_UNIT = re.compile(
    rf"{_QUANTITY_END}\s*(?:{_TEXT}(?P<wrapped>{_SHAPE}(?:{_WORD}){_POWER}{_PER})\s*\.?\s*\}}(?P<outside>{_WRAPPED_PER}{_POWER})"
    rf"|\s+(?P<spaced>{_SHAPE}(?:{_LONG_WORD}){_POWER}{_PER})"
    rf"|(?P<attached>(?:{_LONG_WORD}){_POWER}{_PER})){_END}"
)


def mark_units(text: str) -> str:
    """Every unit behind a quantity, at the end of the text or of a member of a list, becomes `\\unit{…}`."""
    return _UNIT.sub(_marked, text)


def split_unit(text: str) -> tuple[str, str]:
    """A normalised answer without its unit, and the unit (empty if it has none)."""
    head, marker, unit = text.rpartition(r"\unit{")
    return (head, unit[:-1]) if marker and head and unit.find("}") == len(unit) - 1 else (text, "")


def _marked(match: re.Match[str]) -> str:
    found = match["wrapped"] or match["spaced"] or match["attached"]
    return rf"\unit{{{_canonical(found + (match['outside'] or ''))}}}"


def _canonical(written: str) -> str:
    plain = re.sub(rf"{_TEXT}|[{{}}]|\.", " ", written)
    parts = []
    for part in re.split(r"/|\bper\s", plain):
        words = part.replace("^", " ^").split()
        shape = "".join(_SHAPES.get(word, "") for word in words)
        names = "".join(_CANONICAL.get(word, "") for word in words if word not in _SHAPES)
        power = "".join(re.findall(r"\^\s*([23])", part))
        parts.append(f"{names}{power or shape}")
    return "/".join(parts)
