"""What a difference of two rounds says is what a look at the trees says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.forest import grow_tree
from rstar.errors import StoreError
from rstar.store import Store
from rstar.store.diff import compare, parse_side
from rstar.tree import Tree


def grown(problem_id: str, round: int, skill: float) -> Tree:
    return grow_tree(problem_id, round, num_rollouts=4, skill=skill)


LEVELS = {"a": "easy", "b": "easy", "c": "hard", "d": "hard", "only1": "easy", "only2": "hard"}
SKILLS = {
    1: {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0, "only1": 1.0},
    2: {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0, "only2": 0.0},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.create(tmp_path_factory.mktemp("s") / "a:b")
    for round, skills in SKILLS.items():
        with store.writer(round=round) as writer:
            for problem, skill in skills.items():
                writer.append(grown(problem, round, skill), level=LEVELS[problem], seconds=1.5)
    return store


def test_problems_are_solved_lost_or_only_in_one_round(store: Store) -> None:
    found = compare(parse_side(f"{store.folder}:1"), parse_side(f"{store.folder}:2"))
    solved = {round: {t.problem_id for t in store.trees(round) if t.solved} for round in SKILLS}
    assert solved == {1: {"a", "d", "only1"}, 2: {"a", "b"}}, "the fixture is what it should be"
    assert (found.newly_solved, found.lost) == (("b",), ("d",))
    assert (found.only_a, found.only_b) == (("only1",), ("only2",))
    assert [(c.level, c.num_problems, c.num_solved_a, c.num_solved_b) for c in found.levels] == [
        ("easy", 2, 1, 2),
        ("hard", 2, 1, 0),
    ]


def test_costs_endings_and_values_are_those_of_the_trees(store: Store) -> None:
    found = compare(parse_side(f"{store.folder}:1"), parse_side(f"{store.folder}:2"))
    for side in (found.a, found.b):
        trees = list(store.trees(side.round))
        assert (side.num_problems, side.num_trees, side.seconds) == (5, 5, 7.5)
        assert side.num_nodes == sum(len(tree.nodes) for tree in trees)
        assert side.num_tokens == sum(tree.num_tokens for tree in trees)
        reasons = [str(node.terminal) for tree in trees for node in tree.nodes if node.terminal]
        assert side.endings == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        right = [t.mean_q for t in store.trajectories(side.round) if t.verified]
        assert side.num_right == len(right)
        assert side.mean_q_right == pytest.approx(sum(right) / len(right))


def test_a_round_and_itself_differ_in_nothing(store: Store) -> None:
    found = compare(parse_side(f"{store.folder}:1"), parse_side(f"{store.folder}:1"))
    assert found.a == found.b
    assert (found.newly_solved, found.lost, found.only_a, found.only_b) == ((), (), (), ())


def test_a_side_is_a_store_of_one_round_or_names_its_round(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has trees of 2 rounds \(1, 2\); say which: .*a:b:ROUND"):
        parse_side(str(store.folder))
    with pytest.raises(StoreError, match="no trees of round 7; it has rounds 1, 2"):
        parse_side(f"{store.folder}:7")
    with pytest.raises(StoreError, match="is not a store"):
        parse_side(str(tmp_path / "none"))
    with Store.create(tmp_path).writer(round=4) as writer:
        writer.append(grown("a", 4, 1.0))
    assert parse_side(str(tmp_path))[1] == 4


def test_right_answers_have_no_mean_q_where_there_are_none(tmp_path: Path) -> None:
    with Store.create(tmp_path).writer(round=1) as writer:
        writer.append(Tree(problem_id="p", question="?"))
    found = compare(parse_side(str(tmp_path)), parse_side(str(tmp_path)))
    assert found.a.mean_q_right is None
    assert found.a.endings == {}
