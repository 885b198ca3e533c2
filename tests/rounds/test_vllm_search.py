"""Searches on vLLM, from the command line and guided by a preference model: the whole way, with the real parts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from ppm.config import ScoreBound
from ppm.model import start_from
from ppm.opening import open_scorer
from ppm.vllm_scorer import VLLMScorer
from rounds.base_model import BASE_MODEL
from rounds.curriculum import Level, Split, generate
from rstar.campaign import search_into_store
from rstar.config import Guidance, SearchConfig, build
from rstar.engines import EngineConfig
from rstar.grading import GraderConfig
from rstar.problems import write_problems
from rstar.sandbox import SandboxConfig
from rstar.store import Store
from rstar.tree import check_invariants

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_command_line_searches_with_vllm(tmp_path: Path) -> None:
    write_problems(tmp_path / "problems.jsonl", generate(Split.EVAL, Level.EASY, 4, 0))
    settings = (
        "engine.backend=vllm", "engine.vllm.kv_cache_mb=64", "search.num_rollouts=2", "search.num_candidates=4"
    )  # fmt: skip
    command = [
        sys.executable, "-m", "rounds.cli", "search", str(tmp_path / "problems.jsonl"), "--model", str(BASE_MODEL),
        "--store", str(tmp_path / "trees"), *(part for setting in settings for part in ("--set", setting)),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "trees")
    assert len(store.records()) == 4
    assert store.validate() == []
    assert any(record.outcome == "solved" for record in store.records())


def test_a_preference_model_on_vllm_guides_a_search_on_vllm(tmp_path: Path) -> None:
    model = start_from(BASE_MODEL, ScoreBound.TANH)
    torch.nn.init.normal_(model.classifier.score.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    model.classifier.save_pretrained(tmp_path / "ppm")
    AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(tmp_path / "ppm")
    engine = build(EngineConfig, {"backend": "vllm", "vllm": {"kv_cache_mb": 64}})
    store = Store.create(tmp_path / "trees")
    scorer = open_scorer(tmp_path / "ppm", engine, max_length=384)
    assert isinstance(scorer, VLLMScorer)

    async def run() -> list[str]:
        return await search_into_store(
            generate(Split.EVAL, Level.EASY, 4, 0), model=BASE_MODEL, store=store, round_index=3, label="guided",
            search=SearchConfig(num_rollouts=2, num_candidates=4, guidance=Guidance.PPM), sandbox=SandboxConfig(),
            grading=GraderConfig(), engine=engine, prompt_format="bare", seed=0, open_value=lambda: scorer,
        )  # fmt: skip

    assert asyncio.run(run()) == []
    trees = list(store.trees(3))
    assert len(trees) == 4
    scored = 0
    for tree in trees:
        check_invariants(tree)
        scored += sum(node.initial_value is not None for node in tree.nodes)
    assert scored == scorer.stats().scored_steps > 0


def test_doctor_shows_vllm(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rounds.cli", "doctor", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["packages"]["vllm"]
