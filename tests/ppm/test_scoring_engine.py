"""The scoring engine against one whole sequence at a time through the stock model, whatever is cached or shares a pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from ppm.scoring_engine import ScoringEngine
from ppm.scoring_settings import ScoringSettings
from ppm.siblings import Siblings
from rstar.errors import ConfigError
from tests.ppm.models import random_ids, save_tiny_ppm

KINDS = ["qwen2", "llama", "mistral", "gpt_neox", "gemma"]


def scoring_settings(model: Path, **changes: Any) -> ScoringSettings:
    settings = ScoringSettings(
        model=model, device="cpu", dtype="float32", max_length=256, max_pass_tokens=1 << 14, prefix_cache_mb=4
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_ppm(tmp_path_factory.mktemp("ppm"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> ScoringEngine:
    return scoring_settings(folder).load()


@pytest.fixture(scope="module")
def stock_model(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def naive_scores(model: Any, request: Siblings, max_length: int = 256) -> list[float]:
    """Each sequence alone and whole."""
    with torch.no_grad():
        return [
            model(torch.tensor([(request.prefix_ids + step)[-max_length:]])).logits[0, 0].tanh().item()
            for step in request.steps
        ]


def answer(engine: ScoringEngine, requests: Sequence[Siblings]) -> list[list[float]]:
    """All requests at once, in their order."""
    for index, request in enumerate(requests):
        engine.submit(index, request)
    done: dict[int, list[float]] = {}
    while engine.has_work:
        for job_id, scores in engine.step():
            assert job_id not in done
            done[job_id] = scores
    return [done[index] for index in range(len(requests))]


def assert_close(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=2e-5)


def random_steps(chance: random.Random) -> tuple[tuple[int, ...], ...]:
    """A few steps; some begin alike, are equal, or are the beginning of another."""
    steps = [random_ids(chance, 1, 9) for _ in range(chance.randint(1, 4))]
    if chance.random() < 0.5:
        steps.append(chance.choice(steps)[: chance.randint(1, 9)] + random_ids(chance, 0, 2))
    chance.shuffle(steps)
    return tuple(steps)


def grow_trees(seed: int, num_levels: int = 4) -> list[list[Siblings]]:
    """A search-like load, level by level: requests continue steps of earlier ones, with a few tokens between, or repeat
    them; the trees' prompts begin alike."""
    chance = random.Random(seed)
    shared = random_ids(chance, 0, 40)
    frontier = [shared + random_ids(chance, 1, 20) for _ in range(3)]
    levels = []
    for _ in range(num_levels):
        requests = [Siblings(prefix_ids, random_steps(chance)) for prefix_ids in frontier]
        levels.append(requests)
        frontier = [
            request.prefix_ids + chance.choice(request.steps) + random_ids(chance, 0, 4)
            for request in chance.choices(requests, k=4)
        ]
        if chance.random() < 0.3:
            frontier.append(requests[0].prefix_ids)
    return levels


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    max_length=st.sampled_from([12, 40, 256]),
    max_pass_tokens=st.sampled_from([1, 60, 1 << 14]),
    cache_kb=st.sampled_from([0, 8, 24, 4096]),
)
def test_scores_are_those_of_whole_sequences_whatever_is_cached_evicted_cut_or_batched(
    engine: ScoringEngine, stock_model: Any, seed: int, max_length: int, max_pass_tokens: int, cache_kb: int
) -> None:
    other = ScoringEngine(
        engine._model, engine._shape,
        max_length=max_length, max_pass_tokens=max_pass_tokens, prefix_cache_bytes=cache_kb << 10,
    )  # fmt: skip
    levels = grow_trees(seed)
    for requests in levels:
        assert_close(
            answer(other, requests), [naive_scores(stock_model, request, max_length) for request in requests]
        )
    mixed = [request for requests in levels for request in requests]
    random.Random(seed).shuffle(mixed)
    assert_close(answer(other, mixed), [naive_scores(stock_model, request, max_length) for request in mixed])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_each_architecture_are_the_stock_models(kind: str, tmp_path: Path) -> None:
    folder = save_tiny_ppm(tmp_path, kind=kind)
    engine = scoring_settings(folder).load()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for requests in grow_trees(3):
        found = answer(engine, requests)
        assert_close(found, [naive_scores(model, request) for request in requests])
        scores += [score for siblings in found for score in siblings]
    assert torch.tensor(scores).std() > 0.05


def test_a_child_computes_only_what_follows_its_parents_step(engine: ScoringEngine) -> None:
    engine.reset()
    prefix_ids, step, glue = (5,) * 50, (6, 7, 8), (9, 9)
    answer(engine, [Siblings(prefix_ids, (step, (10,)))])
    before = engine.stats + type(engine.stats)()
    answer(engine, [Siblings(prefix_ids + step + glue, ((11, 12), (13,)))])
    spent = engine.stats - before
    assert (spent.passes, spent.scored_steps) == (1, 2)
    assert spent.cached_tokens == len(prefix_ids + step)
    assert spent.computed_tokens == len(glue) + 3


def test_what_waits_shares_a_pass_and_a_pass_takes_only_so_many_new_tokens(engine: ScoringEngine) -> None:
    requests = [Siblings((2 + at, *range(20, 30)), ((3,), (4,))) for at in range(6)]
    for max_pass_tokens, passes in ((13 * 6, 1), (13 * 6 - 1, 2), (13 * 2, 3), (1, 6)):
        other = ScoringEngine(
            engine._model, engine._shape,
            max_length=256, max_pass_tokens=max_pass_tokens, prefix_cache_bytes=1 << 20,
        )  # fmt: skip
        answer(other, requests)
        assert other.stats.passes == passes
        assert other.stats.computed_tokens == 13 * 6
        answer(other, requests)  # of known prefixes the steps alone are new
        assert other.stats.computed_tokens == (13 + 2) * 6


def test_requests_of_unlike_sizes_are_not_padded_to_each_other(engine: ScoringEngine) -> None:
    chance = random.Random(1)
    requests = [
        Siblings((2 + at, *random_ids(chance, 0, 1 + 40 * at)), random_steps(chance)) for at in range(6)
    ]
    before = engine.stats + type(engine.stats)()
    engine.reset()
    answer(engine, requests)
    spent = engine.stats - before
    assert 1 < spent.passes < len(requests)
    assert spent.padded_tokens < 2 * spent.computed_tokens


def test_known_columns_bound_a_pass_too(engine: ScoringEngine) -> None:
    other = ScoringEngine(
        engine._model, engine._shape, max_length=256, max_pass_tokens=30, prefix_cache_bytes=1 << 20
    )
    requests = [Siblings((2 + at, *(5,) * 99), ((3,),)) for at in range(4)]
    answer(other, requests)
    before = other.stats.passes
    answer(other, requests)  # 4 new tokens, but 404 columns where 240 are allowed
    assert other.stats.passes - before == 2


def test_a_beginning_that_several_need_is_computed_once(engine: ScoringEngine) -> None:
    shared = tuple(range(2, 52))
    requests = [Siblings((*shared, at), ((3, 4), (5,))) for at in range(5)]
    engine.reset()
    before = engine.stats + type(engine.stats)()
    answer(engine, requests)
    assert (engine.stats - before).computed_tokens == len(shared) + 5 * 4
    assert (engine.stats - before).passes == 2
    uncached = ScoringEngine(
        engine._model, engine._shape, max_length=256, max_pass_tokens=1 << 14, prefix_cache_bytes=0
    )
    answer(uncached, requests)
    assert uncached.stats.passes == 1, "nobody waits for what will not be kept"


def test_steps_that_the_prefix_is_cut_for_leave_their_siblings_whole_and_nothing_behind(
    engine: ScoringEngine, stock_model: Any
) -> None:
    other = ScoringEngine(
        engine._model, engine._shape, max_length=20, max_pass_tokens=1 << 14, prefix_cache_bytes=1 << 20
    )
    request = Siblings(random_ids(random.Random(0), 15, 15), ((3,), (4,) * 5, (4,) * 6, (5,) * 20))
    for _ in range(2):
        (found,) = answer(other, [request])
        assert found == pytest.approx(naive_scores(stock_model, request, 20), rel=1e-4, abs=2e-5)
    assert other._cache.num_tokens == 15 + 1 + 5


def test_reset_forgets_what_waits_and_what_is_cached(engine: ScoringEngine) -> None:
    engine.submit(0, Siblings((2, 3), ((4,),)))
    engine.step()
    engine.submit(1, Siblings((2, 3), ((4,),)))
    engine.reset()
    assert not engine.has_work
    assert engine.step() == []
    assert engine._cache.num_tokens == 0


def test_loading_leaves_no_trace_of_its_check(folder: Path) -> None:
    engine = scoring_settings(folder).load()
    assert engine.stats == type(engine.stats)()
    assert engine._cache.num_tokens == 0


def test_a_model_whose_attention_ignores_the_mask_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        return value.mean(2, keepdim=True).repeat_interleave(query.shape[1] // value.shape[1], 1).expand(
            -1, -1, query.shape[2], -1
        ).transpose(1, 2), None  # fmt: skip

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", blind)
    with pytest.raises(
        ConfigError, match=r"cannot score with a qwen2 model: its scores differ by .*; use vLLM$"
    ):
        scoring_settings(folder).load()
