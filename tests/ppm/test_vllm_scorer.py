"""The preference model on vLLM: the scores of `PPMScorer`, prefixes from the cache, errors that name their cause."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from ppm.config import ScoreBound
from ppm.model import start_from
from ppm.scorer import PPMScorer
from ppm.vllm_scorer import VLLMScorer
from rstar.backends.vllm.config import VLLMConfig
from rstar.errors import BackendError, ConfigError
from rstar.protocols import ScoreRequest, ValueBackend
from tests.rstar.backends.tiny_models import save_vllm_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MAX_LENGTH = 192
BLOCK = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vllm_model(tmp_path_factory.mktemp("base"))


def save_ppm(base: Path, folder: Path, bound: ScoreBound) -> Path:
    """The base with a head that tells steps apart."""
    model = start_from(base, bound)
    torch.nn.init.normal_(model.classifier.score.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    model.classifier.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@asynccontextmanager
async def scorer_of(folder: Path, **changes: Any) -> AsyncIterator[VLLMScorer]:
    scorer = VLLMScorer(folder, VLLMConfig(kv_cache_mb=64), **{"max_length": MAX_LENGTH, **changes})
    try:
        yield scorer
    finally:
        await scorer.aclose()


def path_requests(chance: random.Random, group: str, num_levels: int = 5) -> list[ScoreRequest]:
    """Siblings at each level of a path that grows by the first of them, at the end beyond `MAX_LENGTH`."""
    requests = []
    prefix_ids = tuple(chance.randrange(10, 370) for _ in range(40))
    for _ in range(num_levels):
        steps = tuple(
            tuple(chance.randrange(10, 370) for _ in range(chance.randint(1, 40))) for _ in range(4)
        )
        requests.append(
            ScoreRequest(
                prefix_text="",
                prefix_ids=prefix_ids,
                step_texts=("",) * 4,
                step_ids=steps,
                group=group,
            )
        )
        prefix_ids += steps[0] + (9,)
    longest = tuple(chance.randrange(10, 370) for _ in range(MAX_LENGTH))
    requests.append(
        ScoreRequest(
            prefix_text="", prefix_ids=prefix_ids, step_texts=("",), step_ids=(longest,), group=group
        )
    )
    return requests


@pytest.mark.parametrize("bound", [ScoreBound.TANH, pytest.param(ScoreBound.NONE, marks=pytest.mark.slow)])
def test_scores_are_those_of_transformers_and_prefixes_come_from_the_cache(
    bound: ScoreBound, base: Path, tmp_path: Path
) -> None:
    folder = save_ppm(base, tmp_path, bound)

    async def run() -> None:
        requests = [
            request for tree in range(3) for request in path_requests(random.Random(tree), f"tree {tree}")
        ]
        ours = PPMScorer(folder, num_replicas=0, max_length=MAX_LENGTH)
        expected = [await ours.score(request) for request in requests]
        await ours.aclose()
        assert torch.tensor(expected[0]).std() > 0.01
        async with scorer_of(folder) as scorer:
            assert isinstance(scorer, ValueBackend)
            in_turn = [await scorer.score(request) for request in requests]
            stats = scorer.stats()
            together = await asyncio.gather(*(scorer.score(request) for request in requests))
            for found in (in_turn, together):
                for a, b in zip(found, expected, strict=True):
                    assert a == pytest.approx(b, abs=1e-4)
            assert stats.scored_steps == sum(len(request.step_ids) for request in requests)
            new = sum(
                len(ids) for request in requests for ids in request.step_ids
            )  # besides these, at most what is left of a block, and sequences that are cut
            assert 0.5 < stats.cache_hit_share < 1
            assert stats.prompt_tokens - stats.cached_tokens < new + 2 * BLOCK * stats.scored_steps
            await check_refusals(scorer, requests[0])

    asyncio.run(run())


async def check_refusals(scorer: VLLMScorer, request: ScoreRequest) -> None:
    for step_ids, expected in (
        (((1, 2), ()), "an empty step"),
        (((5,) * (MAX_LENGTH + 1),), "193 tokens to judge"),
        (((100_000,),), "outside the model's vocabulary"),
    ):
        wrong = ScoreRequest(
            prefix_text="",
            prefix_ids=request.prefix_ids,
            step_texts=("",) * len(step_ids),
            step_ids=step_ids,
        )
        with pytest.raises(BackendError, match=expected):
            await scorer.score(wrong)
    nothing = ScoreRequest(prefix_text="", prefix_ids=request.prefix_ids, step_texts=(), step_ids=())
    assert await scorer.score(nothing) == []


@pytest.mark.slow
def test_a_folder_that_holds_no_preference_model_is_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    unnamed = tmp_path / "unnamed"
    save_ppm(base, unnamed, ScoreBound.TANH)
    config = json.loads((unnamed / "config.json").read_text())
    config.pop("sentence_transformers")
    (unnamed / "config.json").write_text(json.dumps(config))
    broken = tmp_path / "broken"
    shutil.copytree(save_ppm(base, tmp_path / "sound", ScoreBound.TANH), broken)
    (broken / "model.safetensors").write_bytes(b"not a model")

    async def run() -> None:
        for folder, expected in (
            (base, "names Qwen2ForCausalLM as its architecture"),
            (unnamed, "names nothing as sentence_transformers.activation_fn"),
            (broken, "vLLM does not start"),
        ):
            async with scorer_of(folder) as scorer:
                with pytest.raises(ConfigError, match=expected) as caught:
                    await scorer.start()
                assert "\n" not in str(caught.value)

    asyncio.run(run())
