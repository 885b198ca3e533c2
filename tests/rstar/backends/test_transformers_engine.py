"""The engine against a plain pass of the same model without any cache."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer

from rstar.backends.engine import Engine
from rstar.backends.loading import EngineSettings, reference_logprobs
from rstar.backends.sampling import sample, uniforms
from rstar.protocols import Candidate, FinishReason, ProposeRequest, SamplingConfig
from rstar.steps import STEP_STOPS
from tests.rstar.backends.tiny_models import save_model

GREEDY = SamplingConfig(temperature=0.0, max_step_tokens=12)
WARM = SamplingConfig(max_step_tokens=12)


def engine_settings(model: Path, **changes: Any) -> EngineSettings:
    settings = EngineSettings(
        model=model,
        device="cpu",
        dtype="float64",
        max_batch_rows=32,
        max_context_tokens=256,
        kv_cache_mb=64,
        prefix_cache_mb=16,
    )
    return replace(settings, **changes)


def answer(engine: Engine, requests: Sequence[ProposeRequest]) -> list[list[Candidate]]:
    """All requests at once, in their order."""
    for i, request in enumerate(requests):
        engine.submit(i, request)
    done: dict[int, list[Candidate]] = {}
    while engine.has_work:
        done.update(engine.step())
    return [done[i] for i in range(len(requests))]


def ask(prefix_ids: Sequence[int], sampling: SamplingConfig = WARM, **changes: Any) -> ProposeRequest:
    request = ProposeRequest(
        prefix_ids=tuple(prefix_ids), num_candidates=3, seed=0, sampling=sampling, stop=STEP_STOPS
    )
    return replace(request, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-NeoX computes in float64 throughout (Qwen2 and Llama normalise in float32), so its results are exact."""
    return save_model(tmp_path_factory.mktemp("model"), "gpt_neox")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return engine_settings(folder).load()


@pytest.fixture(scope="module")
def bare_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float64").eval()


def naive_candidates(model: Any, tokenizer: Any, request: ProposeRequest) -> list[Candidate]:
    """One whole forward pass per token, one candidate at a time."""
    found = []
    for index in range(request.num_candidates):
        ids: list[int] = []
        logprobs: list[float] = []
        draws = uniforms(request.seed, range(index, index + 1), request.sampling.max_step_tokens)[0]
        reason, text = FinishReason.LENGTH, ""
        while len(ids) < request.sampling.max_step_tokens and len(ids) + len(request.prefix_ids) < 256:
            with torch.no_grad():
                logits = model(torch.tensor([[*request.prefix_ids, *ids]]), use_cache=False).logits[:, -1]
            one = request.sampling
            token, logprob = sample(
                logits,
                torch.tensor([draws[len(ids)]]),
                torch.tensor([one.temperature]),
                torch.tensor([one.top_k]),
                torch.tensor([one.top_p]),
            )
            ids.append(int(token))
            logprobs.append(float(logprob))
            text = tokenizer.decode(ids)
            ends = [text.find(stop) + len(stop) for stop in request.stop if stop in text]
            if ends or ids[-1] == tokenizer.eos_token_id:
                text, reason = (text[: min(ends)] if ends else text), FinishReason.STOP
                break
        found.append(
            Candidate(text=text, token_ids=tuple(ids), logprobs=tuple(logprobs), finish_reason=reason)
        )
    return found


def assert_equal(found: Sequence[Candidate], expected: Sequence[Candidate], tolerance: float = 1e-9) -> None:
    assert [replace(c, logprobs=()) for c in found] == [replace(c, logprobs=()) for c in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt_neox", "mistral"])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_candidates_equal_a_full_recompute_for_each_architecture(
    kind: str, sampling: SamplingConfig, tmp_path: Path
) -> None:
    folder = save_model(tmp_path, kind)
    context = 32 if kind == "mistral" else 256
    engine = engine_settings(folder, max_context_tokens=context).load()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float64").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    requests = [ask(range(10, 10 + length), sampling, seed=length) for length in (1, 5, 18)]
    for request, found in zip(requests, answer(engine, requests), strict=True):
        assert_equal(found, naive_candidates(model, tokenizer, request), 1e-4)


def test_float32_logprobs_are_within_1e_4_of_a_full_recompute(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "qwen2")
    engine = engine_settings(folder, dtype="float32").load()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    requests = [ask(range(10, 10 + length), seed=length) for length in (3, 40, 90)]
    for request, candidates in zip(requests, answer(engine, requests), strict=True):
        for candidate in candidates:
            exact = reference_logprobs(model, request.prefix_ids, candidate.token_ids)
            assert candidate.logprobs == pytest.approx(exact.tolist(), abs=1e-4)


def grow_tree(engine: Engine, seed: int, depth: int = 3) -> list[tuple[ProposeRequest, list[Candidate]]]:
    """A search-like load: children continue random candidates of the level before, with glue that the engine writes."""
    chance = random.Random(seed)
    roots = [tuple(chance.randrange(8, 300) for _ in range(chance.randrange(1, 60))) for _ in range(2)]
    frontier = [*roots, roots[0] + (9, 9)]
    tree: list[tuple[ProposeRequest, list[Candidate]]] = []
    for level in range(depth):
        requests = [
            ask(ids, SamplingConfig(max_step_tokens=chance.randrange(1, 30)), seed=level, num_candidates=3)
            for ids in frontier
            if len(ids) < 250
        ]
        answers = answer(engine, requests)
        tree += zip(requests, answers, strict=True)
        frontier = [
            (
                *request.prefix_ids,
                *chance.choice(candidates).token_ids,
                *(chance.randrange(8, 300) for _ in range(glue)),
            )
            for request, candidates in zip(requests, answers, strict=True)
            for glue in (0, 1, 20)
        ][:5]
    return tree


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_random_trees_have_the_logprobs_of_a_full_recompute(
    engine: Engine, bare_model: Any, seed: int
) -> None:
    for request, candidates in grow_tree(engine, seed):
        for candidate in candidates:
            exact = reference_logprobs(bare_model, request.prefix_ids, candidate.token_ids)
            assert candidate.logprobs == pytest.approx(exact.tolist(), abs=1e-9)


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), rows=st.sampled_from([1, 3, 7, 64]), cache_mb=st.sampled_from([0, 1]))
def test_candidates_do_not_depend_on_batch_size_or_cache(
    folder: Path, engine: Engine, seed: int, rows: int, cache_mb: int
) -> None:
    other = engine_settings(folder, max_batch_rows=rows, prefix_cache_mb=cache_mb).load()
    for request, candidates in grow_tree(engine, seed):
        (alone,) = answer(other, [request])
        assert_equal(alone, candidates)


def test_more_candidates_do_not_change_the_first_ones(engine: Engine) -> None:
    (few,), (many,) = answer(engine, [ask([20, 21])]), answer(engine, [ask([20, 21], num_candidates=50)])
    assert len(many) == 50
    assert_equal(many[:3], few)


def test_other_seeds_give_other_candidates(engine: Engine) -> None:
    a, b = answer(engine, [ask([20, 21]), ask([20, 21], seed=1)])
    assert [c.token_ids for c in a] != [c.token_ids for c in b]


def test_a_child_reuses_what_its_parent_computed(engine: Engine) -> None:
    engine.reset()
    prefix_ids = tuple(range(30, 80))
    (candidates,) = answer(engine, [ask(prefix_ids, stop=("e",), num_candidates=16)])
    stopped = next(c for c in candidates if c.finish_reason is FinishReason.STOP and c.text.endswith("e"))
    before = replace(engine.stats)
    answer(engine, [ask((*prefix_ids, *stopped.token_ids, 9))])
    asked = engine.stats.prefill_tokens - before.prefill_tokens
    assert (
        asked - (engine.stats.cached_tokens - before.cached_tokens) == 2
    )  # the last sampled token, the glue


def test_requests_that_share_a_long_beginning_compute_it_once(engine: Engine) -> None:
    engine.reset()
    shared = tuple(range(30, 130))
    before = engine.stats.cached_tokens
    answer(engine, [ask((*shared, 9 + i, 8)) for i in range(4)])
    assert engine.stats.cached_tokens - before >= 3 * len(shared)


def test_a_prefix_that_fills_the_context_gives_empty_candidates(engine: Engine) -> None:
    (candidates,) = answer(engine, [ask([20] * 256)])
    assert (
        candidates == [Candidate(text="", token_ids=(), logprobs=(), finish_reason=FinishReason.LENGTH)] * 3
    )


def test_a_completion_ends_with_the_context(engine: Engine) -> None:
    (candidates,) = answer(engine, [ask([20] * 252, GREEDY, stop=())])
    assert all(len(c.token_ids) <= 4 for c in candidates)
    assert any(len(c.token_ids) == 4 and c.finish_reason is FinishReason.LENGTH for c in candidates)


def test_all_memory_is_given_back(engine: Engine) -> None:
    grow_tree(engine, seed=5)
    assert not engine.has_work
    assert engine._num_rows == 0
    assert engine._free_columns == engine._max_columns
    assert all(not pool.slots and pool.kv.num_slots == 0 for pool in engine._pools.values())


def test_a_request_larger_than_the_cache_runs_alone(folder: Path, engine: Engine) -> None:
    small = engine_settings(folder, kv_cache_mb=1).load()
    requests = [
        ask(range(20, 120), SamplingConfig(max_step_tokens=100), num_candidates=30, seed=s) for s in (1, 2)
    ]
    for found, expected in zip(answer(small, requests), answer(engine, requests), strict=True):
        assert_equal(found, expected)


def test_requests_taken_back_leave_the_others_as_they_are_and_nothing_behind(engine: Engine) -> None:
    """Running ones, in slots before and after others, one that waits, one that is complete, one that never was."""
    engine.reset()
    long = replace(WARM, max_step_tokens=40)
    requests = [ask(range(20, 25 + i), long, seed=i, stop=(), num_candidates=6) for i in range(8)]
    expected = answer(engine, requests)
    for taken_back in ({0}, {2, 3, 7}, {1, 4, 5, 6}, set(range(8))):
        for i, request in enumerate(requests):
            engine.submit(i, request)
        for _ in range(3):
            engine.step()
        for i in (*taken_back, 99):
            engine.cancel(i)
        done: dict[int, list[Candidate]] = {}
        while engine.has_work:
            done.update(engine.step())
        assert set(done) == set(range(8)) - taken_back
        for i, found in done.items():
            assert [c.token_ids for c in found] == [c.token_ids for c in expected[i]]
        assert engine._free_columns == engine._max_columns
        assert engine._num_rows == 0
