"""Round 1 for real, small: the shipped model searched, trained and evaluated; killed in every stage; run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from policy.sft_table import read_examples
from rounds.artifact import STORE, read_manifest
from rounds.driver import Progress, status
from rounds.pools import EVALUATION, TRAIN
from rounds.recipe import load
from rounds.stages import base_model, stages_by_round
from rstar.problems import normalised_question, read_problems
from rstar.store import Store
from rstar.trajectories import trajectories
from rstar.tree import check_invariants

SETTINGS = (
    "problems.train.curriculum={easy: 8, medium: 4}",
    "problems.evaluation.curriculum={easy: 6, medium: 2}",
    "search.num_rollouts=4",
    "search.num_candidates=4",
    "engine.num_replicas=0",
    "sft.epochs=2",
    "sft.global_batch_size=8",
    "sft.micro_batch_size=8",
    "evaluation.problems={easy: 2}",
    "evaluation.search.num_rollouts=1",
    "ppm.global_batch_size=16",
    "ppm.num_threads=1",
)


def start(run: Path, *more: str) -> subprocess.Popen[bytes]:
    settings = [argument for setting in (*SETTINGS, *more) for argument in ("--set", setting)]
    command = [sys.executable, "-m", "rounds.cli", "round", "1", "--run", str(run), *settings]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "200"}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished round 1."""
    folder = tmp_path_factory.mktemp("round1")
    process = start(folder)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()
    assert b"report:" in out
    return folder


def manifest(run: Path, stage: str) -> dict[str, Any]:
    found = read_manifest(run / stage)
    assert found is not None, f"{stage} is complete"
    return found.summary


@pytest.mark.timeout(600)
def test_training_and_held_out_problems_share_no_question(run: Path) -> None:
    train = read_problems(run / "problems" / TRAIN).problems
    held_out = read_problems(run / "problems" / EVALUATION).problems
    assert Counter(problem.level for problem in train) == {"easy": 8, "medium": 4}
    assert Counter(problem.level for problem in held_out) == {"easy": 6, "medium": 2}
    assert not {normalised_question(p.question) for p in train} & {
        normalised_question(p.question) for p in held_out
    }


def test_search_keeps_one_sound_tree_per_problem_and_solves_some(run: Path) -> None:
    store = Store(run / "round1/search" / STORE)
    trees = list(store.trees(1))
    assert len(trees) == 12
    assert store.validate() == []
    for tree in trees:
        check_invariants(tree)
    summary = manifest(run, "round1/search")
    assert (
        sum(level["solved"] for level in summary["coverage"].values())
        == sum(tree.solved for tree in trees)
        > 0
    )


def test_examples_are_verified_trajectories_token_for_token_as_the_policy_sampled_them(run: Path) -> None:
    examples = read_examples(run / "round1/sft_set" / STORE, 1)
    trees = {tree.problem_id: tree for tree in Store(run / "round1/search" / STORE).trees(1)}
    assert examples
    for example in examples:
        tree = trees[example.problem_id]
        sampled = [
            tuple(token for node_id in t.node_ids for token in tree.nodes[node_id].token_ids)
            for t in trajectories(tree)
            if t.verified
        ]
        kept = tuple(token for token, own in zip(example.token_ids, example.loss_mask, strict=True) if own)
        assert kept in sampled


def test_the_trained_policy_differs_from_the_base_and_is_a_plain_model_folder(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, trained = (
        load_file(p / "model.safetensors") for p in (base_model(load("embedded", 1)), run / "round1/policy")
    )
    assert base.keys() == trained.keys()
    assert any((base[name] != trained[name]).any() for name in base)
    AutoModelForCausalLM.from_pretrained(run / "round1/policy")
    AutoTokenizer.from_pretrained(run / "round1/policy")
    assert list((run / "round1/policy").glob("tensorboard/*"))


def test_evaluation_is_one_greedy_tree_per_held_out_problem(run: Path) -> None:
    for stage in ("base/evaluation", "round1/evaluation"):
        trees = list(Store(run / stage / STORE).trees(1))
        assert len(trees) == manifest(run, stage)["problems"] == 8
        assert all(tree.num_rollouts == 1 for tree in trees)
        assert all(len(node.children) <= 1 for tree in trees for node in tree.nodes)


def test_the_report_shows_coverage_beside_the_papers_and_both_policies(run: Path) -> None:
    text = (run / "round1/report/report.md").read_text()
    for expected in ("60.2%", "96.6%", "67.4%", "58.8%", "69.6%", "| base |", "**r1**"):
        assert expected in text
    page = (run / "round1/report/report.html").read_text()
    assert page.count("<svg") == len(list((run / "round1/report").glob("*.svg"))) > 6
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("https://matplotlib.org", "").replace("http://creativecommons.org", "")  # fmt: skip


def test_status_says_complete_and_a_changed_setting_makes_stale_what_depends_on_it(run: Path) -> None:
    recipe = load("embedded", 1, SETTINGS)
    found = status(run, stages_by_round([recipe])[0])
    assert {one.progress for one in found if not one.stage.name.endswith("report")} == {Progress.COMPLETE}
    changed = load("embedded", 1, [*SETTINGS, "sft.learning_rate=0.001"])
    stale = [
        one.stage.name for one in status(run, stages_by_round([changed])[0]) if one.progress is Progress.STALE
    ]
    assert stale == ["round1/policy", "round1/ppm", "round1/evaluation", "round1/system", "round1/report"]
    faster = load(
        "embedded", 1, [*SETTINGS, "engine.num_replicas=2", "sft.save_steps=7", "sandbox.max_snapshots=9"]
    )
    same = status(run, stages_by_round([faster])[0])
    assert {one.progress for one in same if not one.stage.name.endswith("report")} == {Progress.COMPLETE}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_round_killed_in_every_stage_and_run_again_ends_complete_and_sound(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stages = ["base/evaluation", "round1/search", "round1/policy", "round1/ppm", "round1/evaluation"]
    for stage in stages:
        process = start(run)
        until = time.monotonic() + 300
        while not (run / stage / "started.json").exists():
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(run)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()
    assert Store(run / "round1/search" / STORE).validate() == []
    assert len(Store(run / "round1/search" / STORE).keys(1)) == 12
    assert {json.loads(p.read_text())["stage"] for p in run.rglob("manifest.json")} >= set(stages)
