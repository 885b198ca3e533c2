"""Four tiny rounds: for real through the command line, and scripted, where every tree and every weight is exact."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy.sft_table import read_examples
from ppm.pair_table import read_groups
from rounds.artifact import STORE, Manifest, hash_files, read_manifest
from rounds.driver import Progress, status
from rounds.recipe import load_rounds
from rounds.searching import mastered, passes, value_model
from rounds.stages import base_model, stages_by_round
from rstar.campaign import UnsolvedPass
from rstar.protocols import ScoreRequest
from rstar.store import Kind, Store
from rstar.training.folder import folder_hash
from rstar.tree import Tree, check_invariants

ROUNDS = (1, 2, 3, 4)
SETTINGS = (
    "problems.train.curriculum={easy: 6, medium: 5}",
    "problems.evaluation.curriculum={easy: 4, medium: 2}",
    "evaluation.problems={easy: 2}",
    "evaluation.search.num_rollouts=1",
    "evaluation.search.num_candidates=3",
    "evaluation.max_trajectories=2",
    "evaluation.num_samples=2",
    "search.num_rollouts=4",
    "search.num_candidates=4",
    "rounds.2.unsolved.num_rollouts=[6]",
    "rounds.3.unsolved.num_rollouts=[6]",
    "rounds.4.unsolved.num_rollouts=[6, 8]",
    "mastered_rollouts=null",
    "engine.num_replicas=0",
    "sft.epochs=2",
    "sft.global_batch_size=8",
    "sft.micro_batch_size=8",
    "ppm.epochs=1",
    "ppm.global_batch_size=16",
    "ppm.num_threads=1",
)


def rstar_round(run: Path, what: str, *more: str) -> subprocess.CompletedProcess[str]:
    settings = [argument for setting in (*SETTINGS, *more) for argument in ("--set", setting)]
    command = [sys.executable, "-m", "rounds.cli", "round", what, "--run", str(run), *settings]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def scripted_rounds(folder: Path, *kill_in: str) -> int:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.rounds.scripted_run", str(folder), *kill_in]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rounds of the embedded recipe, made very small."""
    run = tmp_path_factory.mktemp("rounds")
    done = rstar_round(run, "4")
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    return run


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scripted rounds."""
    folder = tmp_path_factory.mktemp("scripted")
    assert scripted_rounds(folder) == 0
    return folder / "run"


@pytest.fixture(params=["real", "scripted"])
def run(request: pytest.FixtureRequest) -> Path:
    """A finished run of either kind."""
    found: Path = request.getfixturevalue(request.param)
    return found


def manifest(run: Path, stage: str) -> Manifest:
    found = read_manifest(run / stage)
    assert found is not None, f"{stage} is complete"
    return found


def trees(run: Path, index: int) -> list[Tree]:
    return list(Store(run / f"round{index}/search" / STORE).trees(index))


def progress(run: Path, *more: str) -> dict[Progress, list[str]]:
    found: dict[Progress, list[str]] = {}
    for stages in stages_by_round(load_rounds("embedded", [*SETTINGS, *more]), complete=True):
        for one in status(run, stages):
            if not one.stage.name.endswith("report"):
                found.setdefault(one.progress, []).append(one.stage.name)
    return found


# --- what four rounds leave behind ---


@pytest.mark.timeout(1200)
def test_every_round_searches_with_the_models_of_the_round_before(run: Path) -> None:
    for index in ROUNDS[1:]:
        made_from = manifest(run, f"round{index}/search").inputs
        assert made_from["model"] == manifest(run, f"round{index - 1}/policy").fingerprint
        guided = index > 2
        assert made_from.get("ppm") == (
            manifest(run, f"round{index - 1}/ppm").fingerprint if guided else None
        )
        scored = [node.initial_value is not None for tree in trees(run, index) for node in tree.nodes]
        assert any(scored) == guided
    assert "ppm" not in manifest(run, "round1/search").inputs


def test_every_policy_is_trained_from_the_base_and_every_preference_model_from_its_rounds_policy(
    run: Path,
) -> None:
    base = folder_hash(base_model(load_rounds("embedded")[0]))
    hashes = set()
    for index in ROUNDS:
        policy, ppm = run / f"round{index}/policy", run / f"round{index}/ppm"
        assert json.loads((policy / "training.json").read_text())["base_hash"] == base
        assert json.loads((ppm / "training.json").read_text())["base_hash"] == folder_hash(policy)
        hashes |= {
            manifest(run, f"round{index}/{made}").outputs["model.safetensors"] for made in ("policy", "ppm")
        }
    assert len(hashes) == 2 * len(ROUNDS), "no two are the same"


def test_only_unsolved_problems_get_more_rollouts_and_only_in_round_4_another_tree(run: Path) -> None:
    for index in ROUNDS:
        settings = manifest(run, f"round{index}/search").settings
        first, totals = settings["search"]["num_rollouts"], settings["unsolved"]["num_rollouts"]
        by_index: dict[int, dict[str, Tree]] = {}
        for tree in trees(run, index):
            check_invariants(tree)
            by_index.setdefault(tree.tree_index, {})[tree.problem_id] = tree
            ends = [total for total in (first, *totals) if total >= tree.num_rollouts]
            assert ends, f"{tree.name} has {tree.num_rollouts} rollouts"
            reached = tree.num_rollouts in (first, *totals) or tree.exhausted
            assert reached or tree.num_rollouts == 1, "a mastered problem has 1"
            if not tree.solved and not tree.exhausted:
                assert tree.num_rollouts == (first, *totals)[-1]
        unsolved = {problem_id for problem_id, tree in by_index[0].items() if not tree.solved}
        assert set(by_index.get(1, {})) == (unsolved if index == 4 else set())
        assert Store(run / f"round{index}/search" / STORE).validate() == []


def test_summaries_say_what_the_stores_hold(run: Path) -> None:
    for index in ROUNDS:
        found = trees(run, index)
        solved = {tree.problem_id for tree in found if tree.solved}
        search = manifest(run, f"round{index}/search").summary
        assert sum(level["solved"] for level in search["coverage"].values()) == len(solved)
        assert sum(search["solved_at"].values()) == sum(tree.solved for tree in found)
        assert search["solved_later"] == len(
            solved - {t.problem_id for t in found if t.solved and not t.tree_index}
        )
        pairs = manifest(run, f"round{index}/pairs").summary
        groups = read_groups(run / f"round{index}/pairs" / STORE, index)
        for kind in ("step", "final"):
            of_kind = [group for group in groups if group.kind == kind]
            assert pairs["groups"].get(kind, 0) == len(of_kind)
            assert pairs["pairs"].get(kind, 0) == sum(len(group.pairs) for group in of_kind)
        assert sum(pairs["depths"].values()) == pairs["pairs"].get("step", 0)
        made = manifest(run, f"round{index}/ppm")
        earlier = [one for one in ROUNDS[: index - 1] if f"pairs{one}" in made.inputs]
        assert earlier in ([], list(ROUNDS[: index - 1])), "the pairs of all rounds so far, or its own"
        learned_from = [manifest(run, f"round{one}/pairs").summary["pairs"] for one in (*earlier, index)]
        ppm = made.summary
        num_pairs = sum(sum(kinds.values()) for kinds in learned_from)
        if earlier:
            assert sum(learned_from[-1].values()) < ppm["pairs"] < num_pairs, (
                "some of every round are held out"
            )
        else:
            assert ppm["pairs"] + ppm["held_out_pairs"] == num_pairs
            assert ppm["accuracy"] == ppm["accuracy_by_step"][str(ppm["best_step"])]


def test_a_preference_model_learns_from_the_pairs_of_earlier_rounds_where_the_recipe_says_so(
    real: Path, scripted: Path
) -> None:
    inputs = {"pairs", "policy"}
    assert set(manifest(real, "round3/ppm").inputs) == inputs | {"pairs1", "pairs2"}
    assert set(manifest(scripted, "round3/ppm").inputs) == inputs


def test_pairs_stand_in_the_order_of_problems_whatever_tree_ended_first(run: Path) -> None:
    for index in ROUNDS:
        keys = [(g.problem_id, g.tree_index) for g in read_groups(run / f"round{index}/pairs" / STORE, index)]
        assert keys == sorted(keys)
        examples = [
            example.problem_id for example in read_examples(run / f"round{index}/sft_set" / STORE, index)
        ]
        assert examples == sorted(examples)


# --- through the command line, with the real models ---


def test_what_the_preference_model_said_of_a_step_is_its_first_value(real: Path) -> None:
    recipe = load_rounds("embedded", SETTINGS)[2]
    tree = max(trees(real, 3), key=lambda tree: len(tree.nodes))
    scorer = value_model(real / "round2/ppm", recipe.engine)

    async def score_again() -> list[tuple[float, float]]:
        from functools import partial

        from rstar.backends.loading import read_tokenizer
        from rstar.prompts import FORMATS, render_prompt
        from rstar.trajectories import prefix_of

        tokenizer = read_tokenizer(real / "round2/policy")
        values = []
        for node in tree.nodes[1:]:
            if node.initial_value is None:
                continue
            prefix = prefix_of(
                tree, node.parent, prompt=render_prompt(FORMATS["bare"], tree.question),
                encode=partial(tokenizer.encode, add_special_tokens=False),
                max_output_chars=recipe.search.max_output_chars,
            )  # fmt: skip
            request = ScoreRequest(
                prefix_text=prefix.text, prefix_ids=prefix.token_ids, step_texts=(node.text,), step_ids=(node.token_ids,)
            )  # fmt: skip
            values.append((node.initial_value, (await scorer.score(request))[0]))
        await scorer.aclose()
        return values

    values = asyncio.run(score_again())
    assert len(values) > 3
    assert [stored for stored, _ in values] == pytest.approx([again for _, again in values], abs=1e-4)


def test_a_second_run_does_nothing_and_status_shows_the_lineage(real: Path) -> None:
    before = hash_files(real)
    done = rstar_round(real, "3")
    assert done.returncode == 0, done.stderr
    assert hash_files(real) == before
    shown = rstar_round(real, "status").stdout
    assert shown.count("complete") == 2 + 4 * 7 + 4 + 3 + 1
    assert f"policy {manifest(real, 'round4/policy').fingerprint[:8]}" in shown
    assert "round3" not in subprocess.run(
        [sys.executable, "-m", "rounds.cli", "round", "status", "--run", str(real), "--round", "2"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


PPM_OF_4 = ["round4/ppm", "round4/system", "round4/ppm_evaluation", "scaling"]


@pytest.mark.parametrize(
    ("setting", "stale"),
    [
        ("rounds.3.search.c_uct=3", ["round3", "round4", "scaling"]),
        ("rounds.4.pairs.min_q_margin=0.25", ["round4/pairs", *PPM_OF_4]),
        (
            "rounds.1.pairs.min_q_margin=0.25",
            [
                "round1/pairs",
                "round1/ppm",
                "round1/system",
                "round2/ppm",
                "round2/system",
                "round2/ppm_evaluation",
                "round3",
                "round4",
                "scaling",
            ],
        ),
        ("rounds.4.ppm.objective=pqm", PPM_OF_4),
        (
            "rounds.2.ppm.learning_rate=0.002",
            ["round2/ppm", "round2/system", "round2/ppm_evaluation", "round3", "round4", "scaling"],
        ),
        ("rounds.1.ppm.learning_rate=0.002", ["round1/ppm", "round1/system"]),
        ("rounds.4.mastered_rollouts=2", ["round4", "scaling"]),
        ("rounds.2.mastered_rollouts=2", []),
        ("rounds.1.unsolved.num_trees=2", ["round1", "round2", "round3", "round4", "scaling"]),
        ("min_coverage_gain=0.5", []),
        ("ppm.num_threads=2", []),
        ("sft.num_processes=1", []),
        ("ppm.deepspeed=zero3", []),
    ],
)
def test_a_changed_setting_makes_stale_what_was_made_from_it(
    real: Path, setting: str, stale: list[str]
) -> None:
    found = progress(real, setting)
    expected = [
        stage for stage in progress(real)[Progress.COMPLETE]
        if any(stage == one or stage.startswith(f"{one}/") for one in stale)
    ]  # fmt: skip
    assert found.get(Progress.STALE, []) == expected
    assert set(found) <= {Progress.STALE, Progress.COMPLETE}


def test_rounds_stop_after_one_that_gains_too_little(real: Path) -> None:
    done = rstar_round(real, "all", "min_coverage_gain=1.0")
    assert done.returncode == 0, done.stderr
    assert "so no round after 2" in done.stderr
    assert str(real / "round2/report/report.html") in done.stdout
    assert "round3" not in done.stderr
    done = rstar_round(real, "3", "min_coverage_gain=1.0")
    assert str(real / "round3/report/report.html") in done.stdout, "a round that is asked for runs"


@pytest.fixture
def copied(real: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that a test may spoil."""
    copy = tmp_path / "copy"
    shutil.copytree(real, copy)
    yield copy
    shutil.rmtree(copy)


def test_a_lost_preference_model_is_made_again_and_is_the_same(copied: Path, real: Path) -> None:
    shutil.rmtree(copied / "round2/ppm")
    (copied / "round4/evaluation/manifest.json").unlink()
    (copied / "round3/pairs" / "manifest.json").write_text("{}")
    done = rstar_round(copied, "4")
    assert done.returncode == 2
    assert "round3/pairs/manifest.json has schema version None" in done.stderr
    assert done.stderr.rstrip().endswith("remove its folder")
    shutil.rmtree(copied / "round3/pairs")
    found = progress(copied)
    assert found[Progress.MISSING] == ["round3/pairs"], "what comes before was made already"
    assert found[Progress.STALE] == ["round4/evaluation"]
    assert rstar_round(copied, "4").returncode == 0
    for made in ("round2/ppm", "round3/ppm", "round4/policy"):
        ours, theirs = (manifest(of, made).outputs["model.safetensors"] for of in (copied, real))
        assert ours == theirs


def test_too_few_pairs_end_the_stage_with_what_to_do(copied: Path) -> None:
    done = rstar_round(copied, "1", "pairs.max_tokens=1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert line.startswith("error: stage round1/pairs failed: preference pairs come from 0 problems")
    assert "too_long" in line
    assert "search.num_rollouts" in line
    assert "pairs.max_tokens" in line


def test_a_preference_model_longer_than_the_base_model_is_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    done = rstar_round(tmp_path / "run", "1", "ppm.max_length=4096")
    assert done.stderr == "error: ppm.max_length is 4096; it must be at most the base model's 512\n"
    assert not (tmp_path / "run").exists()


# --- scripted, where everything is exact ---


def test_problems_that_were_all_right_twice_get_the_mastered_rollouts(scripted: Path) -> None:
    stores = [scripted / f"round{index}/search" / STORE for index in (3, 2)]
    spared = mastered(stores)
    assert len(spared) == manifest(scripted, "round4/search").summary["mastered"] > 0
    for store, index in zip(stores, (3, 2), strict=True):
        for tree in Store(store).trees(index):
            verified = [node.verified for node in tree.nodes if node.answer is not None]
            assert tree.problem_id not in spared or all(verified)
    first = {tree.problem_id: tree for tree in trees(scripted, 4) if tree.tree_index == 0}
    assert all(first[problem_id].num_rollouts == 1 for problem_id in spared if first[problem_id].solved)
    assert any(tree.num_rollouts == 2 for tree in first.values())


def test_passes_take_the_first_tree_on_and_then_search_others_with_all_rollouts() -> None:
    recipes = load_rounds("embedded-long", ["rounds.1.unsolved.num_trees=3"])
    tries = [[(one.tree_index, one.num_rollouts) for one in passes(recipe)] for recipe in recipes]
    assert tries == [[(1, 8), (2, 8)], [(0, 32)], [(0, 32)], [(0, 64), (0, 128), (1, 128)]]
    assert passes(recipes[1]) == [UnsolvedPass(num_rollouts=32)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_rounds_killed_in_every_stage_and_run_again_end_in_the_same_trees_rows_and_weights(
    scripted: Path, tmp_path: Path
) -> None:
    shutil.copytree(scripted.parent, tmp_path / "again", ignore=shutil.ignore_patterns("run"))
    killed = tmp_path / "again"
    stages = [
        stage
        for one in stages_by_round(load_rounds(scripted.parent / "recipe.yaml"), complete=True)
        for stage in one
    ]
    for stage in stages:
        assert scripted_rounds(killed, stage.name) == -signal.SIGKILL
        assert read_manifest(killed / "run" / stage.name) is None
    assert scripted_rounds(killed) == 0
    for stage in stages:
        assert contents(killed / "run" / stage.name) == contents(scripted / stage.name), stage.name


def contents(stage: Path) -> Any:
    """What a stage made, times and logs apart."""
    made: dict[str, Any] = {}
    for identity in stage.rglob("store.json"):
        store = Store(identity.parent)
        rows = [store.table(kind).to_pylist() for kind in (Kind.SFT, Kind.PAIRS)]
        made[identity.parent.name] = ({tree.name: tree for tree in store.trees()}, rows)
    for name, digest in hash_files(stage).items():
        if Path(name).suffix in (".safetensors", ".jsonl"):
            made[name] = digest
    return made
