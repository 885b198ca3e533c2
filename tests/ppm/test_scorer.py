"""The scorer: the stock model's scores from a thread and from a process; whole steps; errors that name their cause."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ppm.config import ScoreBound
from ppm.model import start_from
from ppm.scorer import PPMScorer
from rstar.backends.loading import read_tokenizer
from rstar.errors import BackendError, ConfigError
from rstar.protocols import ScoreRequest, ValueBackend
from tests.policy.forest import save_tiny_base
from tests.ppm.models import random_ids, save_tiny_ppm

STARTS_TIMEOUT_S = 600
"""For tests that start processes: each imports torch and transformers, on a machine that may be busy."""


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test, in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_ppm(tmp_path_factory.mktemp("ppm"))


@asynccontextmanager
async def scorer_of(folder: Path, **changes: Any) -> AsyncIterator[PPMScorer]:
    scorer = PPMScorer(folder, **{"num_replicas": 0, **changes})
    try:
        yield scorer
    finally:
        await scorer.aclose()


def random_request(seed: int, *, num_steps: int = 4) -> ScoreRequest:
    chance = random.Random(seed)
    return ScoreRequest(
        prefix_text="", prefix_ids=random_ids(chance, 5, 40), step_texts=("",) * num_steps,
        step_ids=tuple(random_ids(chance, 1, 12) for _ in range(num_steps)), group=f"tree {seed % 3}",
    )  # fmt: skip


def stock_scores(folder: Path, requests: list[ScoreRequest], bound: Callable[[torch.Tensor], torch.Tensor], max_length: int = 256) -> list[list[float]]:  # fmt: skip
    """Each step alone through the stock Hugging Face model."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return [
            [bound(model(torch.tensor([(request.prefix_ids + step)[-max_length:]])).logits[0, 0]).item() for step in request.step_ids]
            for request in requests
        ]  # fmt: skip


REQUESTS = [random_request(seed) for seed in range(8)]


@in_a_loop
async def test_scores_are_the_stock_models_for_requests_alone_and_together(folder: Path) -> None:
    expected = stock_scores(folder, REQUESTS, torch.tanh)
    async with scorer_of(folder) as scorer:
        assert isinstance(scorer, ValueBackend)
        together = await asyncio.gather(*(scorer.score(request) for request in REQUESTS))
        alone = [await scorer.score(request) for request in REQUESTS]
        stats = scorer.stats()
    for found in (together, alone):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert torch.tensor(expected).std() > 0.1
    assert stats.scored_steps == 2 * sum(len(request.step_ids) for request in REQUESTS)
    assert stats.cached_tokens >= sum(len(request.prefix_ids) for request in REQUESTS)


@in_a_loop
async def test_a_pass_takes_only_so_many_tokens(folder: Path) -> None:
    async with scorer_of(folder, max_pass_tokens=1) as scorer:
        await asyncio.gather(*(scorer.score(request) for request in REQUESTS))
        assert scorer.stats().passes == len(REQUESTS)


async def kill_before_it_answers(scorer: PPMScorer) -> None:
    (victim,) = scorer._pool.pids
    os.kill(victim, signal.SIGSTOP)
    await asyncio.sleep(0.05)  # what was asked is on its way
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(STARTS_TIMEOUT_S):
        while scorer._pool.pids == [victim]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.timeout(STARTS_TIMEOUT_S)
@in_a_loop
async def test_a_process_gives_the_scores_of_a_thread_also_after_it_was_killed_once(folder: Path) -> None:
    async with scorer_of(folder) as scorer:
        expected = await asyncio.gather(*(scorer.score(request) for request in REQUESTS))
    async with scorer_of(folder, num_replicas=None, device="cpu") as scorer:
        assert scorer.num_replicas == 1
        await scorer.start()
        again = asyncio.gather(*(scorer.score(request) for request in REQUESTS))
        await asyncio.sleep(0)
        await kill_before_it_answers(scorer)
        torch.testing.assert_close(torch.tensor(await again), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        assert scorer.stats().scored_steps == sum(len(request.step_ids) for request in REQUESTS)
        waiting = asyncio.ensure_future(scorer.score(REQUESTS[0]))
        await asyncio.sleep(0)
        await kill_before_it_answers(scorer)
        await kill_before_it_answers(scorer)
        with pytest.raises(BackendError, match=r"could not answer: .*signal 9, 2 times with this request$"):
            await waiting


@in_a_loop
async def test_a_folder_without_a_preference_model_is_one_clear_line(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path, ["x = 1\nprint(x)\n<end_of_code>"] * 3)
    async with scorer_of(base) as scorer:
        for _ in range(2):
            with pytest.raises(
                ConfigError, match=r"its weights lack score.weight; it is no preference model$"
            ):
                await scorer.score(REQUESTS[0])


@in_a_loop
async def test_fault_9_a_long_prefix_is_cut_on_the_left_as_in_training(folder: Path) -> None:
    expected = stock_scores(folder, REQUESTS, torch.tanh, max_length=14)
    async with scorer_of(folder, max_length=14) as scorer:
        found = [await scorer.score(request) for request in REQUESTS]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        long = dataclasses.replace(REQUESTS[0], step_ids=((3,) * 15,), step_texts=("",))
        with pytest.raises(BackendError, match=r"^a request has 15 tokens to judge; max_length is 14"):
            await scorer.score(long)


@in_a_loop
async def test_a_search_is_told_the_tanh_of_an_unbounded_score(tmp_path: Path) -> None:
    folder = save_tiny_ppm(tmp_path, ScoreBound.NONE, hidden_size=64)
    raw = torch.tensor(stock_scores(folder, REQUESTS, lambda x: x))
    assert raw.abs().max() > 1
    async with scorer_of(folder) as scorer:
        found = torch.tensor([await scorer.score(request) for request in REQUESTS])
    torch.testing.assert_close(found, raw.tanh(), rtol=1e-4, atol=1e-4)


@in_a_loop
async def test_a_model_with_another_tokenizer_reads_texts(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path / "base", ["x = 1\nprint(x)\n<end_of_code>"] * 3)
    model = start_from(base, ScoreBound.TANH)
    torch.nn.init.normal_(model.classifier.score.weight, generator=torch.Generator().manual_seed(0))
    model.classifier.save_pretrained(tmp_path / "ppm")
    tokenizer = read_tokenizer(base)
    tokenizer.save_pretrained(tmp_path / "ppm")
    prefix, steps = "x = 1\n", ("print(x)\n<end_of_code>", "x")

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    read = ScoreRequest(
        prefix_text=prefix, prefix_ids=ids(prefix), step_texts=steps, step_ids=tuple(map(ids, steps))
    )
    foreign = dataclasses.replace(read, prefix_ids=(2,), step_ids=((3,), (4,)))
    async with scorer_of(tmp_path / "ppm", reads_ids=False) as scorer:
        found = await scorer.score(foreign)
    (expected,) = stock_scores(tmp_path / "ppm", [read], torch.tanh)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@in_a_loop
async def test_a_cancelled_request_disturbs_nobody(folder: Path) -> None:
    async with scorer_of(folder) as scorer:
        first, second = (asyncio.create_task(scorer.score(request)) for request in REQUESTS[:2])
        await asyncio.sleep(0)
        first.cancel()
        assert len(await second) == 4
        assert first.cancelled()


@in_a_loop
async def test_bad_requests_and_a_closed_scorer_are_one_clear_line(folder: Path) -> None:
    async with scorer_of(folder) as scorer:
        with pytest.raises(
            BackendError, match=r"^a request with token ids outside the model's vocabulary of 60$"
        ):
            await scorer.score(dataclasses.replace(REQUESTS[0], prefix_ids=(60,)))
        with pytest.raises(BackendError, match=r"^a request with an empty step"):
            await scorer.score(dataclasses.replace(REQUESTS[0], step_ids=((),)))
        assert await scorer.score(dataclasses.replace(REQUESTS[0], step_ids=(), step_texts=())) == []
    with pytest.raises(BackendError, match=r"^this value back-end is closed$"):
        await scorer.score(REQUESTS[0])


def test_settings_that_do_not_fit_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^max_length is 300; it must be at least 1 and at most the model's 256$"
    ):
        PPMScorer(folder, max_length=300)
    with pytest.raises(ConfigError, match=r"^max_pass_tokens is 0; it must be at least 1$"):
        PPMScorer(folder, max_pass_tokens=0)
    with pytest.raises(ConfigError, match=r"^prefix_cache_mb is -1; it must be at least 0"):
        PPMScorer(folder, prefix_cache_mb=-1)
    with pytest.raises(ConfigError, match=r"^num_replicas is -1; it must be at least 0"):
        PPMScorer(folder, num_replicas=-1)
    with pytest.raises(ConfigError, match=r"^dtype 'float12' is not one of"):
        PPMScorer(folder, dtype="float12")
    with pytest.raises(ConfigError, match=r"has no config.json"):
        PPMScorer(tmp_path)
