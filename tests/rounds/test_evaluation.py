"""Held-out evaluation for real, small: the shipped model with an untrained preference model over it, searched without
reference answers, graded afterwards, killed and run again."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from policy.attempts import ATTEMPTS, Attempt, by_problem, read_attempts
from policy.evaluate import Evaluation
from policy.statistics import ALL_LEVELS
from ppm.config import PPMConfig, ScoreBound
from ppm.evaluate import score_trajectories
from ppm.model import start_from
from rounds.artifact import STORE, Manifest, finish
from rounds.curriculum import Level, Split, generate
from rounds.evaluation import (
    COMPARED,
    SAMPLES,
    check_contamination,
    held_out,
    make_scaling,
    make_system_evaluation,
    single_sample,
)
from rounds.pools import EVALUATION, TRAIN
from rounds.recipe import RoundRecipe, load, load_rounds
from rounds.searching import make_evaluation, value_model
from rounds.stages import base_model, stages_by_round
from rstar.backends.loading import read_tokenizer
from rstar.config import SearchConfig, to_plain
from rstar.errors import ConfigError
from rstar.grading import Grader
from rstar.problems import Problem, read_problems, write_problems
from rstar.prompts import FORMATS
from rstar.protocols import SamplingConfig
from rstar.selection import Method
from rstar.store import Outcome, Store
from rstar.tree import TerminalReason

SETTINGS = (
    "evaluation.problems={easy: 3, medium: 1}",
    "evaluation.search.num_rollouts=2",
    "evaluation.search.num_candidates=4",
    "evaluation.num_trajectories=2",
    "evaluation.max_trajectories=2",
    "evaluation.num_samples=5",
    "engine.num_replicas=0",
)
Inputs = dict[str, Path]


@pytest.fixture(scope="module")
def recipe() -> RoundRecipe:
    return load("embedded", 1, SETTINGS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Folders as the stages leave them: problems, the base as policy, and two value models with random heads."""
    folder = tmp_path_factory.mktemp("inputs")
    problems = folder / "problems"
    problems.mkdir()
    write_problems(problems / TRAIN, generate(Split.TRAIN, Level.EASY, 5, 0))
    held_out_problems = [p for level in Level for p in generate(Split.EVAL, level, 4, 0)]
    write_problems(problems / EVALUATION, held_out_problems)
    policy = base_model(load("embedded", 1))
    return {
        "problems": problems,
        "policy": policy,
        "ppm": save_value_model(folder / "ppm", policy, seed=0),
        "orm": save_value_model(folder / "orm", policy, seed=1),
    }


def save_value_model(folder: Path, policy: Path, *, seed: int) -> Path:
    model = start_from(policy, ScoreBound.TANH)
    torch.nn.init.normal_(
        model.classifier.score.weight, std=0.05, generator=torch.Generator().manual_seed(seed)
    )
    model.classifier.save_pretrained(folder)
    read_tokenizer(policy).save_pretrained(folder)
    settings = {"ppm": to_plain(PPMConfig(max_length=512))}
    finish(
        folder,
        Manifest(
            schema_version=1, stage="ppm", fingerprint="", settings=settings, seed=0, inputs={}, outputs={},
            summary={}, seconds=0.0, versions={},
        ),
    )  # fmt: skip
    return folder


def quiet() -> Console:
    return Console(quiet=True)


@dataclasses.dataclass(frozen=True)
class Made:
    folder: Path
    summary: dict[str, Any]

    @property
    def attempts(self) -> list[Attempt]:
        return read_attempts(self.folder / ATTEMPTS)


@pytest.fixture(scope="module")
def system(recipe: RoundRecipe, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("system")
    return Made(folder, make_system_evaluation(recipe, quiet(), "system", folder, inputs))


@pytest.fixture(scope="module")
def scaling(recipe: RoundRecipe, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Made:
    greedy = tmp_path_factory.mktemp("greedy")
    make_evaluation(recipe, quiet(), "greedy", greedy, {**inputs, "model": inputs["policy"]})
    folder = tmp_path_factory.mktemp("scaling")
    return Made(folder, make_scaling(recipe, quiet(), "scaling", folder, {**inputs, "evaluation": greedy}))


def test_so_many_trees_of_the_first_held_out_problems_and_no_other(
    recipe: RoundRecipe, inputs: Inputs, system: Made
) -> None:
    wanted = [p.id for p in held_out(recipe, inputs["problems"])]
    assert Counter(p.level for p in held_out(recipe, inputs["problems"])) == {"easy": 3, "medium": 1}
    assert Store(system.folder / STORE).keys() == {(name, index) for name in wanted for index in range(2)}
    assert {p.problem_id: len(p.trees) for p in by_problem(system.attempts)} == dict.fromkeys(wanted, 2)
    assert system.summary["problems"] == {"easy": 3, "medium": 1, ALL_LEVELS: 4}
    assert system.summary["contamination"] == {"evaluated": 4, "trained_on": 5, "both": 0}


def test_no_answer_was_judged_in_the_search_and_every_one_was_scored_by_the_value_model(system: Made) -> None:
    store = Store(system.folder / STORE)
    assert store.validate() == []
    assert Outcome.SOLVED not in {record.outcome for record in store.records()}
    answers = [n for tree in store.trees() for n in tree.nodes if n.terminal is TerminalReason.ANSWERED]
    assert answers
    for node in answers:
        assert node.verified is None
        assert node.initial_value is not None


def test_the_stored_trajectories_scored_again_get_the_scores_of_the_search(
    recipe: RoundRecipe, inputs: Inputs, system: Made
) -> None:
    encode = partial(read_tokenizer(inputs["policy"]).encode, add_special_tokens=False)

    async def compare() -> int:
        scorer, count = value_model(inputs["ppm"], recipe.engine), 0
        scored = score_trajectories(
            Store(system.folder / STORE).trees(), scorer, format=FORMATS[recipe.prompt_format], encode=encode,
            max_output_chars=recipe.evaluation.search.max_output_chars,
        )  # fmt: skip
        async for tree, scores in scored:
            for node_id, score in scores.items():
                assert score == pytest.approx(tree.nodes[node_id].initial_value, abs=1e-5)
                count += 1
        await scorer.aclose()
        return count

    assert asyncio.run(compare()) == sum(one.node_id is not None for one in system.attempts) > 0


def test_every_trajectory_is_an_attempt_graded_against_the_reference(
    inputs: Inputs, recipe: RoundRecipe, system: Made
) -> None:
    references = {p.id: p.answer for p in held_out(recipe, inputs["problems"])}
    trees = {(t.problem_id, t.tree_index): t for t in Store(system.folder / STORE).trees()}
    expected = Counter(
        (*key, node_id)
        for key, tree in trees.items()
        for node_id in tree.terminal_nodes()
        if tree.nodes[node_id].terminal is TerminalReason.ANSWERED
    )
    found = [one for one in system.attempts if one.node_id is not None]
    assert Counter((one.problem_id, one.tree_index, one.node_id) for one in found) == expected
    with Grader() as grader:
        for one in found:
            assert one.node_id is not None
            assert one.answer is not None
            tree = trees[one.problem_id, one.tree_index]
            assert one.verified == grader.grade_sync(one.answer, references[one.problem_id]).equal
            assert (one.score, one.multiplicity) == (tree.nodes[one.node_id].initial_value, tree.nodes[one.node_id].multiplicity)  # fmt: skip
            assert one.tokens == tree.num_tokens
        for problem in by_problem(system.attempts):
            answers = [one for tree in problem.trees for one in tree.answers]
            classes = asyncio.run(grader.classes([one.answer or "" for one in answers]))
            assert [one.answer_class for one in answers] == classes
    assert {True, False} == {one.verified for one in system.attempts}


def test_a_systems_summary_is_what_its_attempts_say(system: Made) -> None:
    evaluation = Evaluation(by_problem(system.attempts), seed=0)
    assert list(system.summary["accuracy"]) == ["easy", "medium", ALL_LEVELS]
    for level, ids in evaluation.levels().items():
        for method in Method:
            point = system.summary["accuracy"][level][method]
            expected = evaluation.point(ids, method, 2)
            assert point["accuracy"] == pytest.approx(expected.accuracy)
            assert point["tokens"] == pytest.approx(expected.tokens)
            assert 0 <= point["low"] <= point["accuracy"] + 1e-9
    records = Store(system.folder / STORE).records()
    assert system.summary["tokens"] == sum(record.num_tokens for record in records) > 0
    json.dumps(system.summary, allow_nan=False)


def test_the_reference_answers_never_reach_a_search(
    recipe: RoundRecipe, inputs: Inputs, system: Made, tmp_path: Path
) -> None:
    """With other answers in the file, the trees are the same and the grades are not."""
    problems = tmp_path / "problems"
    problems.mkdir()
    (problems / TRAIN).write_bytes((inputs["problems"] / TRAIN).read_bytes())
    originals = read_problems(inputs["problems"] / EVALUATION).problems
    write_problems(problems / EVALUATION, [dataclasses.replace(p, answer="-12345") for p in originals])
    folder = tmp_path / "system"
    folder.mkdir()
    make_system_evaluation(recipe, quiet(), "system", folder, {**inputs, "problems": problems})
    assert texts(folder / STORE) == texts(system.folder / STORE)
    assert not any(one.verified for one in read_attempts(folder / ATTEMPTS))


def texts(store: Path) -> dict[str, list[str]]:
    return {tree.name: [node.text for node in tree.nodes] for tree in Store(store).trees()}


def test_samples_are_trees_of_one_path_scored_by_each_value_model(scaling: Made) -> None:
    trees = list(Store(scaling.folder / SAMPLES).trees())
    assert len(trees) == 4 * 5
    assert all(len(node.children) <= 1 for tree in trees for node in tree.nodes)
    assert any(len({tuple(n.text for n in t.nodes) for t in trees if t.problem_id == one.problem_id}) > 1 for one in trees)  # fmt: skip
    ppm, orm = (read_attempts(scaling.folder / f"samples-{name}.jsonl") for name in ("ppm", "orm"))
    assert [dataclasses.replace(one, score=None) for one in ppm] == [
        dataclasses.replace(one, score=None) for one in orm
    ]
    scored = [(one.score, other.score) for one, other in zip(ppm, orm, strict=True) if one.node_id]
    assert scored
    assert all(one is not None and other is not None and one != other for one, other in scored)


def test_curves_reach_every_doubling_of_trees_and_samples(scaling: Made) -> None:
    assert scaling.summary["trees_per_problem"] == 2
    for level in ("easy", "medium", ALL_LEVELS):
        curves = scaling.summary["curves"][level]
        assert set(curves["search"]) == set(Method)
        scored = {f"{m}:{name}" for m in COMPARED if m is not Method.MAJORITY for name in ("ppm", "orm")}
        assert set(curves["samples"]) == {"pass", "majority", "greedy"} | scored
        for points in curves["search"].values():
            assert [point["num_trees"] for point in points] == [1, 2]
        for name, points in curves["samples"].items():
            assert [point["num_trees"] for point in points] == ([1] if name == "greedy" else [1, 2, 4, 5])
        firsts = {points[0]["accuracy"] for name, points in curves["samples"].items() if name != "greedy"}
        assert max(firsts) == pytest.approx(min(firsts)), "of one sample every method is pass@1"
    json.dumps(scaling.summary, allow_nan=False)


def test_baselines_at_equal_tokens_spend_what_the_search_spent_or_all_they_have(scaling: Made) -> None:
    sample_tokens = scaling.summary["curves"][ALL_LEVELS]["samples"]["pass"][0]["tokens"]
    for method in COMPARED:
        for row in scaling.summary["equal_tokens"][ALL_LEVELS][method]:
            assert set(row["baselines"]) == set(scaling.summary["curves"][ALL_LEVELS]["samples"]) - {"pass"}
            for name, baseline in row["baselines"].items():
                difference = row["accuracy"] - baseline["accuracy"]
                assert baseline["difference"] == pytest.approx(difference)
                assert baseline["difference_low"] <= difference + 1e-9
                if name != "greedy":
                    assert baseline["exhausted"] == (row["tokens"] >= 6 * sample_tokens)
                    assert baseline["num_trees"] == min(5, max(1, int(row["tokens"] / sample_tokens + 1e-9)))


@pytest.mark.parametrize("make", [make_system_evaluation, make_scaling])
def test_what_is_derived_from_complete_stores_is_made_anew_and_the_same(
    make: Callable[..., dict[str, Any]], recipe: RoundRecipe, inputs: Inputs, request: pytest.FixtureRequest
) -> None:
    made: Made = request.getfixturevalue("system" if make is make_system_evaluation else "scaling")
    files = {path: path.read_bytes() for path in made.folder.glob("*.jsonl")}
    for path in files:
        path.write_text("half a li")
    again = make(recipe, quiet(), "again", made.folder, inputs)
    assert {path: path.read_bytes() for path in made.folder.glob("*.jsonl")} == files
    for key in ("problems", "tokens", "accuracy"):
        assert again.get(key) == made.summary.get(key)


_RUN = """
import sys
from pathlib import Path
from rich.console import Console
from rounds.evaluation import make_system_evaluation
from rounds.recipe import load
folder, problems, policy, ppm, *settings = sys.argv[1:]
inputs = {"problems": Path(problems), "policy": Path(policy), "ppm": Path(ppm)}
make_system_evaluation(load("embedded", 1, settings), Console(quiet=True), "system", Path(folder), inputs)
"""


@pytest.mark.slow
def test_an_evaluation_killed_and_run_again_keeps_its_trees_and_ends_complete(
    recipe: RoundRecipe, inputs: Inputs, system: Made, tmp_path: Path
) -> None:
    settings = [*SETTINGS, "engine.max_trees_in_flight=1"]
    folders = [str(inputs[name]) for name in ("problems", "policy", "ppm")]
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path), *folders, *settings])
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if (tmp_path / STORE / "store.json").exists() and len(Store(tmp_path / STORE).keys()) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = texts(tmp_path / STORE)
    assert len(kept) >= 2
    summary = make_system_evaluation(recipe, quiet(), "system", tmp_path, inputs)
    found = texts(tmp_path / STORE)
    assert {name: found[name] for name in kept} == kept
    assert found.keys() == texts(system.folder / STORE).keys()
    assert Store(tmp_path / STORE).validate() == []
    assert summary["problems"] == system.summary["problems"]


def test_a_sample_is_as_random_as_the_search_and_a_single_path() -> None:
    search = SearchConfig(num_rollouts=4, num_candidates=32, sampling=SamplingConfig(temperature=0.7))
    sample = single_sample(search)
    assert (sample.num_rollouts, sample.num_candidates, sample.sampling) == (1, 1, search.sampling)


def test_a_held_out_question_that_was_trained_on_is_refused_whatever_its_case_and_spaces(
    tmp_path: Path,
) -> None:
    write_problems(tmp_path / TRAIN, [Problem(id="t", question="What is  2 + 2?", answer="4")])
    evaluated = [Problem(id="e", question="what is 2 + 2?\n", answer="4")]
    with pytest.raises(ConfigError, match=r"^1 evaluation questions are also training questions, e among"):
        check_contamination(tmp_path, evaluated)
    other = [dataclasses.replace(evaluated[0], question="What is 3 + 2?")]
    assert check_contamination(tmp_path, other) == {"evaluated": 1, "trained_on": 1, "both": 0}


def test_levels_are_taken_as_the_recipe_says(recipe: RoundRecipe, inputs: Inputs) -> None:
    def taken(problems: dict[str, int]) -> dict[str, int]:
        evaluation = dataclasses.replace(recipe.evaluation, problems=problems)
        found = held_out(dataclasses.replace(recipe, evaluation=evaluation), inputs["problems"])
        return dict(Counter(problem.level for problem in found))

    assert taken({}) == {"easy": 4, "medium": 4, "olympiad": 4}
    assert taken({"olympiad": 2, "easy": 0}) == {"olympiad": 2}
    assert taken({"olympiad": 99}) == {"olympiad": 4}
    with pytest.raises(
        ConfigError, match=r"it takes none of the held-out problems; their levels are easy, medium"
    ):
        taken({"easy": 0})


def test_each_round_evaluates_its_system_and_its_ppm_with_the_first_policy_and_scaling_follows_the_last() -> (
    None
):
    recipes = load_rounds("embedded", SETTINGS)
    stages = {s.name: s for one in stages_by_round(recipes, complete=True) for s in one}
    for index in (1, 2, 3, 4):
        system = stages[f"round{index}/system"]
        assert system.inputs["policy"] is stages[f"round{index}/policy"]
        assert system.inputs["ppm"] is stages[f"round{index}/ppm"]
        if index > 1:
            fixed = stages[f"round{index}/ppm_evaluation"]
            assert fixed.inputs["policy"] is stages["round1/policy"]
            assert fixed.inputs["ppm"] is stages[f"round{index}/ppm"]
        assert system in stages[f"round{index}/report"].inputs.values()
    assert "round1/ppm_evaluation" not in stages
    assert stages["scaling"].inputs["ppm"] is stages["round4/ppm"]
    assert list(stages)[-2:] == ["scaling", "round4/report"]
    cut = [s.name for one in stages_by_round(recipes[:2]) for s in one]
    assert "scaling" not in cut
    assert cut == [name for name in stages if name in cut], (
        "what is made does not depend on how far a run goes"
    )


@pytest.mark.parametrize(
    ("setting", "stale"),
    [
        ("evaluation.num_samples=9", {"scaling", "round4/report"}),
        ("evaluation.max_trajectories=3", {"scaling", "round4/report"}),
        ("engine.max_batch_rows=9", set()),
    ],
)
def test_a_setting_of_the_evaluation_makes_only_evaluations_stale(setting: str, stale: set[str]) -> None:
    before, after = (
        {s.name: s.fingerprint for one in stages_by_round(load_rounds("embedded", settings), complete=True) for s in one}
        for settings in (SETTINGS, (*SETTINGS, setting))
    )  # fmt: skip
    assert {name for name in before if before[name] != after[name]} == stale
