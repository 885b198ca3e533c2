"""Every random choice has a path: `derive(seed, "p17", 0, "propose", 3)` is the same number on every
machine, in every process, whatever else runs. There is no global random state anywhere.
"""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the random choice at `path` below `seed` (blake2b; `hash` differs per process).

    Path parts are told apart by type and length, so `("a", "b")` and `("ab",)` and `(1,)` and `("1",)` differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *path):
        text = f"{'i' if isinstance(part, int) else 's'}{part}"
        digest.update(f"{len(text)}:{text}".encode())
    return int.from_bytes(digest.digest(), "big") >> 1


def rng(seed: int, *path: str | int) -> random.Random:
    """A private generator for the random choices at `path` below `seed`."""
    return random.Random(derive(seed, *path))
