"""Seeds: the same on every machine, different wherever the path is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar.seeds import derive, rng

paths = st.lists(st.integers() | st.text(max_size=6), max_size=5).map(tuple)


@pytest.mark.parametrize(
    ("path", "expected"),
    [((), 852266382185571212), (("p17", 0, "propose", 3), 83099191358916368)],
)
def test_derived_seeds_are_pinned_because_stored_trees_depend_on_them(
    path: tuple[str | int, ...], expected: int
) -> None:
    assert derive(1, *path) == expected


@given(st.integers(), paths, st.integers(), paths)
def test_different_paths_give_different_63_bit_seeds(
    seed: int, path: tuple[str | int, ...], other_seed: int, other_path: tuple[str | int, ...]
) -> None:
    assert 0 <= derive(seed, *path) < 1 << 63
    same_place = (seed, path) == (other_seed, other_path)
    assert (derive(seed, *path) == derive(other_seed, *other_path)) == same_place


def test_parts_of_a_path_are_told_apart_by_type_and_length() -> None:
    seeds = [
        derive(0, *path) for path in [("a", "b"), ("ab",), (1,), ("1",), (1, 1), (11,), ("", "a"), ("a", "")]
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_is_the_same_in_another_process_whatever_its_hash_seed() -> None:
    program = "from rstar.seeds import derive; print(derive(7, 'p', 3, 'x'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert printed == {f"{derive(7, 'p', 3, 'x')}\n".encode()}


def test_generators_are_private_and_repeatable() -> None:
    first, second = rng(3, "a"), rng(3, "a")
    assert [first.random() for _ in range(3)] == [second.random() for _ in range(3)]
    assert rng(3, "a").random() != rng(3, "b").random()
