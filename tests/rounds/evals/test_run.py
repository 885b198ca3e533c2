"""A whole evaluation with the embedded model: tables at equal budgets, a folder that is gone on with, and its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rounds.base_model import BASE_MODEL
from rounds.evals.config import EvalConfig
from rounds.evals.page import write_report
from rounds.evals.run import Evaluand, evaluate_sets
from rounds.evals.sets import load_set
from rstar.config import SearchConfig
from rstar.errors import ConfigError
from rstar.store import Store
from rstar.strategies import Strategy

CONFIG = EvalConfig(search=SearchConfig(num_rollouts=2, num_candidates=3), num_trajectories=2, num_samples=6)
STRATEGIES = (Strategy.MCTS, Strategy.MAJORITY, Strategy.GREEDY)


def evaluand(*, seed: int = 0, strategies: tuple[Strategy, ...] = STRATEGIES) -> Evaluand:
    return Evaluand(
        policy=BASE_MODEL, ppm=None, prompt_format="bare", strategies=strategies, config=CONFIG, seed=seed
    )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluation")
    sets = [load_set("embedded", data=None, limit=6, seed=0)]
    results = evaluate_sets(sets, evaluand(), out, console=Console(quiet=True))
    write_report(results, out)
    return out, json.loads((out / "results.json").read_text())


def test_every_strategy_spends_no_more_than_the_budget(evaluated: tuple[Path, dict[str, Any]]) -> None:
    _, results = evaluated
    found = results["sets"]["embedded"]
    rows = found["at_equal_tokens"]["all"]
    assert [row["label"] for row in rows] == ["MCTS: most frequent", "majority of N (maj@k)", "greedy"]
    for row in rows:
        assert row["tokens"] <= found["budget"] + 1e-6
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    assert rows[0]["first_minus_this"] is None
    assert rows[1]["first_minus_this"]["difference"] == pytest.approx(
        rows[0]["accuracy"] - rows[1]["accuracy"]
    )
    assert rows[2]["exhausted"]
    assert set(found["curves"]["all"]) == {row["label"] for row in rows} | {"pass@k"}


def test_pass_at_k_never_falls_and_bounds_every_vote(evaluated: tuple[Path, dict[str, Any]]) -> None:
    curves = evaluated[1]["sets"]["embedded"]["curves"]["all"]
    shares = [point["accuracy"] for point in curves["pass@k"]]
    assert shares == sorted(shares)
    for one, bound in zip(curves["majority of N (maj@k)"], curves["pass@k"], strict=True):
        assert one["accuracy"] <= bound["accuracy"] + 1e-9


def test_the_folder_says_all_that_decides_the_result(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, results = evaluated
    settings = results["settings"]
    assert settings["policy"]["hash"]
    assert settings["seed"] == 0
    assert settings["search"]["num_rollouts"] == 2
    assert settings["versions"]["torch"]
    attempts = [
        json.loads(line) for line in (out / "embedded/samples/attempts.jsonl").read_text().splitlines()
    ]
    assert len({(one["problem_id"], one["tree_index"]) for one in attempts}) == 6 * 6
    assert "| MCTS: most frequent" in (out / "report.md").read_text()


def test_no_tree_was_searched_with_its_answer(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, _ = evaluated
    for arm in ("mcts", "samples", "greedy"):
        for tree in Store(out / "embedded" / arm / "store").trees():
            assert all(node.verified is None for node in tree.nodes)


def test_run_again_it_searches_nothing_and_says_the_same(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, results = evaluated
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    sets = [load_set("embedded", data=None, limit=6, seed=0)]
    again = evaluate_sets(sets, evaluand(), out, console=Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert json.loads(json.dumps(again.plain()))["sets"] == results["sets"]


def test_a_folder_of_another_evaluation_is_refused(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, _ = evaluated
    sets = [load_set("embedded", data=None, limit=6, seed=0)]
    with pytest.raises(ConfigError, match="holds an evaluation with another seed"):
        evaluate_sets(sets, evaluand(seed=1), out, console=Console(quiet=True))
    fewer = [load_set("embedded", data=None, limit=3, seed=0)]
    with pytest.raises(ConfigError, match="holds 6 problems of embedded, not 3"):
        evaluate_sets(fewer, evaluand(), out, console=Console(quiet=True))


def test_strategies_that_need_a_preference_model_are_refused_before_anything_runs(tmp_path: Path) -> None:
    sets = [load_set("embedded", data=None, limit=1, seed=0)]
    with pytest.raises(ConfigError, match="strategy beam needs a preference model"):
        evaluate_sets(sets, evaluand(strategies=(Strategy.BEAM,)), tmp_path, console=Console(quiet=True))
    assert not list(tmp_path.iterdir())
