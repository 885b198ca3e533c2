"""Ablations of a tiny first round, for real through the command line; their graph and their verdicts by themselves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from policy.attempts import ATTEMPTS, Attempt, by_problem, read_attempts
from policy.evaluate import Evaluation
from policy.sft_table import read_examples
from policy.statistics import ALL_LEVELS, Interval, PairedDifference, paired_difference
from rounds.ablation_stages import ablation_stages
from rounds.ablations import Finding, finding, make_samples, ordering, value_models
from rounds.artifact import STORE, Manifest, read_manifest
from rounds.driver import Stage
from rounds.evaluation import samples_file
from rounds.recipe import load_rounds
from rounds.searching import outcomes
from rounds.stages import stages_by_round
from rounds.training import make_ppm
from rstar.errors import ConfigError
from rstar.problems import read_problems
from rstar.store import Store
from rstar.training.folder import folder_hash
from rstar.trajectories import trajectories

SETTINGS = (
    "problems.train.curriculum={easy: 8, medium: 4}",
    "problems.evaluation.curriculum={easy: 4, medium: 2}",
    "evaluation.problems={easy: 3, medium: 1}",
    "evaluation.search.num_rollouts=1",
    "evaluation.search.num_candidates=3",
    "evaluation.max_trajectories=2",
    "evaluation.num_samples=4",
    "search.num_rollouts=3",
    "search.num_candidates=4",
    "engine.num_replicas=0",
    "sft.epochs=1",
    "sft.global_batch_size=8",
    "sft.micro_batch_size=8",
    "ppm.epochs=1",
    "ppm.global_batch_size=16",
    "ppm.num_threads=1",
    "ppm.held_out_share=0.5",
)
TRAINED_ON = {"random": "round1/search", "rejection": "ablations/rejection/samples"}
"""Training set to the stage with its trees."""


def stages(last: int, *more: str) -> tuple[list[Stage], list[Stage]]:
    """Those of rounds 1 to `last` of the embedded recipe, and the ablations of the last of them."""
    recipes = load_rounds("embedded", [*SETTINGS, *more])
    complete = last == len(recipes)
    before = [*itertools.chain(*stages_by_round(recipes[:last], complete=complete))]
    return before, ablation_stages(recipes[:last], before, complete=complete)


def rstar_round(run: Path, what: str, *more: str) -> subprocess.CompletedProcess[str]:
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = [sys.executable, "-m", "rounds.cli", "round", what, "--round", "1", "--run", str(run), *settings, *more]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 1 and its ablations."""
    folder = tmp_path_factory.mktemp("ablations")
    done = rstar_round(folder, "ablations")
    assert done.returncode == 0, done.stderr
    assert f"report: {folder}/ablations/report/report.html" in done.stdout
    return folder


def manifest(run: Path, stage: str) -> Manifest:
    found = read_manifest(run / stage)
    assert found is not None, f"{stage} is complete"
    return found


# --- what the ablations of a round leave behind ---


@pytest.mark.timeout(1200)
def test_rounds_and_ablations_are_complete_together_and_neither_makes_the_other_stale(run: Path) -> None:
    done = rstar_round(run, "status", "--json")
    found = {one["stage"]: one["progress"] for one in json.loads(done.stdout)}
    assert set(found.values()) == {"complete"}
    assert {"round1/report", "ablations/report"} <= set(found)
    assert not (run / ".stale").exists()


def test_every_policy_is_trained_from_the_base_on_its_own_solutions_as_many_of_a_problem(run: Path) -> None:
    base = json.loads((run / "round1/policy/training.json").read_text())["base_hash"]
    settings = manifest(run, "round1/policy").settings
    for name, searched in TRAINED_ON.items():
        policy = manifest(run, f"ablations/{name}/policy")
        assert json.loads((run / f"ablations/{name}/policy/training.json").read_text())["base_hash"] == base
        assert policy.settings == settings
        assert policy.seed == manifest(run, "round1/policy").seed
        examples = read_examples(run / f"ablations/{name}/sft_set" / STORE, 1)
        assert len(examples) == manifest(run, f"ablations/{name}/sft_set").summary["examples"] > 0
        assert max(Counter(one.problem_id for one in examples).values()) <= 2
        correct = {
            (one.problem_id, one.tree_index, one.answer, one.mean_q)
            for tree in Store(run / searched / STORE).trees()
            for one in trajectories(tree)
            if one.verified
        }
        assert {(one.problem_id, one.tree_index, one.answer, one.mean_q) for one in examples} <= correct


def test_rejection_sampling_takes_as_many_single_paths_as_the_tokens_of_the_search_pay_for(run: Path) -> None:
    summary = manifest(run, "ablations/rejection/samples").summary
    number = summary["samples_per_problem"]
    problems = read_problems(run / "problems/train.jsonl").problems
    trees = list(Store(run / "ablations/rejection/samples" / STORE).trees(1))
    assert Counter(tree.problem_id for tree in trees) == {problem.id: number for problem in problems}
    assert all(len(node.children) <= 1 for tree in trees for node in tree.nodes)
    assert all(node.verified is not None for tree in trees for node in tree.nodes if node.answer is not None)
    searched = sum(record.num_tokens for record in Store(run / "round1/search" / STORE).records(1))
    first = sum(tree.num_tokens for tree in trees if tree.tree_index == 0)
    assert number == max(1, round(searched / first))
    assert summary["search_tokens"] == searched
    assert summary["tokens"] == sum(tree.num_tokens for tree in trees)
    made_from = manifest(run, "ablations/rejection/samples").inputs
    assert made_from["model"] == manifest(run, "round1/search").inputs["model"]


def test_samples_that_are_there_are_not_taken_again(run: Path) -> None:
    (recipe, *_) = load_rounds("embedded", SETTINGS)
    folder = run / "ablations/rejection/samples"
    inputs = {
        "problems": run / "problems",
        "search": run / "round1/search",
        "model": run / "no model is asked",
    }
    again = make_samples(recipe, Console(quiet=True), folder, inputs)
    expected = manifest(run, "ablations/rejection/samples").summary
    assert json.loads(json.dumps({**again, "joules": None})) == {**expected, "joules": None}


def test_policies_are_compared_on_the_same_problems(run: Path) -> None:
    own = outcomes(run / "round1/evaluation" / STORE)
    levels = manifest(run, "ablations/policies").summary["levels"]
    assert set(levels) == {"easy", "medium", ALL_LEVELS}
    for name in TRAINED_ON:
        others = outcomes(run / f"ablations/{name}/evaluation" / STORE)
        assert others.keys() == own.keys()
        for level, found in levels.items():
            ids = [one for one, (of, _) in own.items() if level in (of, ALL_LEVELS)]
            sides = [[float(side[one][1]) for one in ids] for side in (others, own)]
            expected = paired_difference(*sides, seed=0)
            assert found["pass_rates"][name]["accuracy"] == pytest.approx(sum(sides[0]) / len(ids))
            assert found["pass_rates"]["top_mean_q"]["accuracy"] == pytest.approx(sum(sides[1]) / len(ids))
            assert found["over"][name]["difference"] == pytest.approx(expected.difference)
            assert found["over"][name]["finding"] == finding(expected)


def test_value_models_have_the_trunk_the_trees_and_the_held_out_problems_of_the_preference_model(
    run: Path,
) -> None:
    ours = manifest(run, "round1/ppm")
    for objective in ("pqm", "orm"):
        made = manifest(run, f"ablations/{objective}/model")
        assert made.summary["objective"] == objective
        assert made.seed == ours.seed
        assert made.inputs == {**ours.inputs, "search": manifest(run, "round1/search").fingerprint}
        assert made.settings == {"ppm": {**ours.settings["ppm"], "objective": objective}}
        training = json.loads((run / f"ablations/{objective}/model/training.json").read_text())
        assert training["base_hash"] == folder_hash(run / "round1/policy")
        assert set(made.summary) == set(ours.summary)
    final = ours.summary["held_out_pairs"]
    assert manifest(run, "ablations/pqm/model").summary["held_out_pairs"] == final
    assert 0 < manifest(run, "ablations/orm/model").summary["held_out_pairs"] <= final


def test_a_value_model_learns_from_the_trees_of_an_earlier_round_where_its_own_has_none(
    run: Path, tmp_path: Path
) -> None:
    recipe = load_rounds("embedded", [*SETTINGS, "ppm.objective=pqm"])[1]
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    Store.create(nothing / STORE)
    earlier = {f"{what}1": run / "round1" / what for what in ("pairs", "search")}
    made = make_ppm(
        recipe,
        tmp_path / "model",
        {"pairs": nothing, "search": nothing, "policy": run / "round1/policy", **earlier},
    )
    tried = sum(
        node.visit_count > node.scored and node.parent >= 0
        for tree in Store(run / "round1/search" / STORE).trees() for node in tree.nodes
    )  # fmt: skip
    assert 0 < made["pairs"] < tried, "some of the problems are held out"


def test_the_system_with_the_pqm_is_paired_with_that_of_the_ppm(run: Path) -> None:
    ours, theirs = ({(t.problem_id, t.tree_index): t for t in Store(run / of / STORE).trees()} for of in ("round1/system", "ablations/pqm/system"))  # fmt: skip
    assert ours.keys() == theirs.keys()
    for key, tree in ours.items():
        assert theirs[key].seed == tree.seed
        first, other = (
            [tree.nodes[child].text for child in tree.nodes[0].children] for tree in (tree, theirs[key])
        )
        assert first == other, "the first step is sampled before any value model has a say"
    scores = [[one.score for one in read_attempts(run / of / ATTEMPTS)] for of in ("round1/system", "ablations/pqm/system")]  # fmt: skip
    assert scores[0] != scores[1]


def test_the_samples_of_scaling_are_scored_by_all_three_models_and_nothing_is_sampled_again(
    run: Path,
) -> None:
    folder = run / "ablations/scaling"
    assert not list(folder.rglob("store.json"))
    found = {name: read_attempts(folder / samples_file(name)) for name in ("ppm", "pqm", "orm")}
    stored = read_attempts(run / "round1/scaling" / samples_file("ppm"))
    assert [one.score for one in found["ppm"]] == pytest.approx([one.score for one in stored], abs=1e-5)
    for name, attempts in found.items():
        assert [dataclasses.replace(one, score=None) for one in attempts] == [
            dataclasses.replace(one, score=None) for one in stored
        ], name
    assert len({tuple(one.score for one in attempts) for attempts in found.values()}) == 3
    summary, plain = manifest(run, "ablations/scaling").summary, manifest(run, "round1/scaling").summary
    for level, by_method in plain["equal_tokens"].items():
        for method, rows in by_method.items():
            for row, again in zip(rows, summary["equal_tokens"][level][method], strict=True):
                assert {"best:orm", "best:pqm"} <= set(again["baselines"])
                assert row["tokens"] == again["tokens"]
                assert row["accuracy"] == again["accuracy"]
    json.dumps(summary, allow_nan=False)


# --- the graph ---


def test_ablations_are_those_of_the_last_round_and_leave_the_rounds_as_they_are() -> None:
    before, after = stages(4)
    made = {stage.name: stage for stage in (*before, *after)}
    assert [stage.name for stage in after] == [
        "ablations/pqm/model", "ablations/orm/model", "ablations/pqm/system", "ablations/scaling",
        "ablations/random/sft_set", "ablations/random/policy", "ablations/random/evaluation",
        "ablations/rejection/samples", "ablations/rejection/sft_set", "ablations/rejection/policy",
        "ablations/rejection/evaluation", "ablations/policies", "ablations/report",
    ]  # fmt: skip
    assert made["ablations/rejection/samples"].inputs["model"] is made["round3/policy"]
    assert made["ablations/scaling"].inputs["scaling"] is made["scaling"]
    assert made["ablations/policies"].inputs["top_mean_q"] is made["round4/evaluation"]
    for name, stage in made.items():
        if name.startswith("ablations/") and name != "ablations/report":
            for other in stage.inputs.values():
                of = getattr(other, "name", "base")
                earlier = of.endswith(("/pairs", "/search")) or of == "round3/policy"
                assert (
                    of.startswith(("round4/", "ablations/"))
                    or of in ("problems", "scaling", "base")
                    or earlier
                )
    reported = {name for name in made if not name.endswith("/report")}
    assert set(made["ablations/report"].inputs) == reported
    assert made["ablations/report"].settings == {"command": "make ablations"}


@pytest.mark.parametrize("all_rounds", [True, False])
def test_value_models_learn_from_the_rounds_that_the_preference_model_learns_from(all_rounds: bool) -> None:
    before, after = stages(4, f"earlier_pairs={str(all_rounds).lower()}")
    made = {stage.name: stage for stage in (*before, *after)}
    ppm, pqm = made["round4/ppm"], made["ablations/pqm/model"]
    drawn_from = {stage for name, stage in ppm.inputs.items() if name.startswith("pairs")}
    assert {pairs.inputs["search"] for pairs in drawn_from if isinstance(pairs, Stage)} == {
        stage for name, stage in pqm.inputs.items() if name.startswith("search")
    }
    assert len(drawn_from) == (4 if all_rounds else 1)
    assert pqm.inputs == {
        **ppm.inputs,
        **{name: pqm.inputs[name] for name in pqm.inputs if name.startswith("search")},
    }


def test_a_round_before_the_last_has_its_own_scaling() -> None:
    before, after = stages(2)
    assert after[0].name == "round2/scaling"
    assert after[0].inputs["ppm"].fingerprint == next(s for s in before if s.name == "round2/ppm").fingerprint
    assert after[-1].settings == {"command": "make ablations LAST=2"}


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("rounds.4.pairs.min_q_margin=0.25", {"random", "rejection", "policies"}),
        ("rounds.4.ppm.learning_rate=0.002", {"random", "rejection", "policies"}),
        ("evaluation.num_samples=9", {"pqm", "orm", "random", "rejection", "policies"}),
        ("rounds.4.sft.learning_rate=0.001", {"random/sft_set", "rejection/samples", "rejection/sft_set"}),
        ("rounds.4.search.c_uct=3", set()),
        ("rounds.2.pairs.min_q_margin=0.25", set()),
        ("engine.max_batch_rows=9", {"pqm", "orm", "scaling", "random", "rejection", "policies", "report"}),
    ],
)
def test_a_changed_setting_makes_stale_what_was_made_from_it(setting: str, same: set[str]) -> None:
    plain, changed = ({stage.name: stage.fingerprint for stage in stages(4, *more)[1]} for more in ((), (setting,)))  # fmt: skip
    expected = {
        name for name in plain if any(name == f"ablations/{one}" or name.startswith(f"ablations/{one}/") for one in same)
    }  # fmt: skip
    assert {name for name in plain if plain[name] == changed[name]} == expected


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("rounds.4.ppm.objective=orm", r"^ppm.objective is 'orm'; it must be ppm, for others to be compared"),
        ("sft_set.choice=random", r"^sft_set.choice is 'random'; it must be top_mean_q, for others"),
    ],
)
def test_a_round_without_the_part_that_is_replaced_is_refused(setting: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        stages(4, setting)


# --- the verdicts ---


def planted(share: float, *, tokens: int, num_trees: int = 1, num_problems: int = 40) -> Evaluation:
    """Every tree has a right answer and a wrong one; in this share of the problems the right one has the better score."""
    attempts = [
        Attempt(
            problem_id=f"p{at}", level="easy", tree_index=tree, tokens=tokens, node_id=1 + right, answer=str(right),
            answer_class=right, multiplicity=1, mean_q=0.0, verified=bool(right),
            score=0.5 if bool(right) == (at < share * num_problems) else -0.5,
        )
        for at in range(num_problems) for tree in range(num_trees) for right in (0, 1)
    ]  # fmt: skip
    return Evaluation(by_problem(attempts), seed=0)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.9, 0.5, 0.1), {"ppm_over_pqm": "yes", "pqm_over_orm": "yes", "ppm_over_orm": "yes", "ordering": "yes"}),
        ((0.1, 0.5, 0.9), {"ppm_over_pqm": "no", "pqm_over_orm": "no", "ppm_over_orm": "no", "ordering": "no"}),
        ((0.5, 0.9, 0.1), {"ppm_over_pqm": "no", "pqm_over_orm": "yes", "ordering": "no"}),
        ((0.525, 0.5, 0.1), {"ppm_over_pqm": "not told apart", "ppm_over_orm": "yes", "ordering": "not told apart"}),
        ((0.5, 0.5, 0.5), {"pqm_over_orm": "not told apart", "ordering": "not told apart"}),
    ],
)  # fmt: skip
def test_the_order_of_value_models_is_found_where_it_is_planted(
    shares: tuple[float, float, float], expected: Mapping[str, str]
) -> None:
    ppm, pqm = (planted(share, tokens=100) for share in shares[:2])
    table = value_models(ppm, pqm, planted(shares[2], tokens=25, num_trees=8), seed=0)
    assert list(table) == ["easy", ALL_LEVELS]
    for row in table.values():
        verdicts = {name: one if name == "ordering" else one["finding"] for name, one in row.items() if name != "searches"}  # fmt: skip
        assert {name: verdicts[name] for name in expected} == expected
        points: dict[str, Any] = row["searches"]
        assert (points["ppm"]["accuracy"], points["pqm"]["accuracy"]) == pytest.approx(shares[:2], abs=1 / 40)
        assert row["ppm_over_orm"]["num_trees"] == 4, "a search of 100 tokens pays for 4 samples of 25"
        assert not row["ppm_over_orm"]["exhausted"]


@given(low=st.floats(-1, 1), high=st.floats(-1, 1))
def test_a_finding_needs_an_interval_without_zero(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    found = finding(
        PairedDifference(num_problems=9, difference=(low + high) / 2, interval=Interval(low, high))
    )
    assert found is (Finding.YES if low > 0 else Finding.NO if high < 0 else Finding.OPEN)


@given(st.fixed_dictionaries({name: st.sampled_from(Finding) for name in ("ppm_over_pqm", "pqm_over_orm", "ppm_over_orm")}))  # fmt: skip
def test_an_order_is_shown_by_its_steps_and_refuted_by_any_pair(found: dict[str, Finding]) -> None:
    order = ordering(found)
    assert (order is Finding.NO) == (Finding.NO in found.values())
    if order is Finding.YES:
        assert found["ppm_over_pqm"] is found["pqm_over_orm"] is Finding.YES
