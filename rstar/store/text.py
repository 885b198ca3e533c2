"""Any Python string as valid UTF-8, reversibly: lone surrogates, which a program's output may hold, are escaped.

Ordinary text is kept as it is. A lone surrogate becomes U+10FFFD (the last private-use character, which no text is
expected to hold) and four hex digits; U+10FFFD itself is doubled.
"""

from __future__ import annotations

import re

MARK = "\U0010fffd"

_NEEDS_ESCAPE = re.compile("[\ud800-\udfff\U0010fffd]")
_ESCAPED = re.compile("\U0010fffd(\U0010fffd|[0-9a-f]{4})")


def escape(text: str) -> str:
    """Inverse of `unescape`; the same object unless the text needs it."""
    if text.isascii() or _NEEDS_ESCAPE.search(text) is None:
        return text
    return _NEEDS_ESCAPE.sub(lambda m: MARK * 2 if m[0] == MARK else f"{MARK}{ord(m[0]):04x}", text)


def unescape(text: str) -> str:
    if MARK not in text:
        return text
    return _ESCAPED.sub(lambda m: MARK if m[1] == MARK else chr(int(m[1], 16)), text)
