"""Are two texts at least so many edits apart? The question that pairs of steps are filtered by.

Lengths settle many; the rest is Myers' bit-parallel algorithm (Journal of the ACM 46, 1999, in Hyyrö's form for edit
distance) between the common ends, its bit vectors Python's whole numbers, stopped as soon as the answer is certain.
"""

from __future__ import annotations


def differ_by(one: str, other: str, num_edits: int) -> bool:
    """Whether the Levenshtein distance (insertions, deletions, substitutions of characters) is at least `num_edits`."""
    if num_edits <= 0:
        return True
    if abs(len(one) - len(other)) >= num_edits:
        return True
    if max(len(one), len(other)) < num_edits or one == other:
        return False
    one, other = _without_common_ends(one, other)
    return _myers(one, other, num_edits)


def _without_common_ends(one: str, other: str) -> tuple[str, str]:
    shorter = min(len(one), len(other))
    start = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    end = next((at for at in range(shorter - start) if one[-1 - at] != other[-1 - at]), shorter - start)
    return one[start : len(one) - end], other[start : len(other) - end]


def _myers(pattern: str, text: str, num_edits: int) -> bool:
    """Whether the distance is at least `num_edits`. `distance` is that of the whole pattern to the text read so far; one
    more character changes it by 1 at most."""
    if not pattern or not text:
        return max(len(pattern), len(text)) >= num_edits
    if len(pattern) < len(text):
        pattern, text = text, pattern  # fewer, longer vectors
    masks: dict[str, int] = {}
    bit = 1
    for character in pattern:
        masks[character] = masks.get(character, 0) | bit
        bit <<= 1
    last = bit >> 1
    ones = bit - 1
    up, down = ones, 0  # rows of this column that are 1 more, 1 less, than the row above
    distance = len(pattern)
    left = len(text)
    for character in text:
        match = masks.get(character, 0)
        zero = (((match & up) + up) ^ up) | match | down
        right_up = down | (ones & ~(zero | up))
        right_down = up & zero
        if right_up & last:
            distance += 1
        elif right_down & last:
            distance -= 1
        left -= 1
        if distance - left >= num_edits:
            return True
        if distance + left < num_edits:
            return False
        right_up = ((right_up << 1) | 1) & ones
        right_down = (right_down << 1) & ones
        up = right_down | (ones & ~(zero | right_up))
        down = right_up & zero
    return distance >= num_edits
