"""The policy back-end: replicas in processes and threads, routing, death, errors, text."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from rstar.backends.transformers import TransformersPolicy
from rstar.errors import BackendError, ConfigError
from rstar.protocols import Candidate, PolicyBackend, ProposeRequest, SamplingConfig
from rstar.steps import STEP_STOPS
from tests.rstar.backends.contract import PolicyContract, Served, check_closed, serve
from tests.rstar.backends.tiny_models import TEXTS, save_model, save_vllm_model, train_tokenizer

STARTS_TIMEOUT_S = 600
"""For tests that start processes: each imports torch and transformers, 5 CPU seconds, on a machine that may be busy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "gpt_neox")


def requests(policy: TransformersPolicy, count: int, max_step_tokens: int = 20) -> list[ProposeRequest]:
    """`count` requests in groups of four."""
    sampling = SamplingConfig(max_step_tokens=max_step_tokens)
    return [
        ProposeRequest(
            prefix_ids=(*policy.encode(TEXTS[i % len(TEXTS)]), 10 + i),
            num_candidates=3,
            seed=i,
            sampling=sampling,
            stop=STEP_STOPS,
            group=f"tree {i // 4}",
        )
        for i in range(count)
    ]


async def propose_all(policy: TransformersPolicy, asked: Sequence[ProposeRequest]) -> list[list[Candidate]]:
    return list(await asyncio.gather(*(policy.propose(request) for request in asked)))


def pids(policy: TransformersPolicy) -> list[int]:
    return policy._pool.pids


@pytest.mark.timeout(STARTS_TIMEOUT_S)
def test_two_processes_give_the_candidates_of_one_thread(folder: Path) -> None:
    async def run(num_replicas: int) -> tuple[list[list[Candidate]], list[int]]:
        policy = TransformersPolicy(folder, num_replicas=num_replicas, dtype="float64", max_batch_rows=16)
        assert isinstance(policy, PolicyBackend)
        found = await propose_all(policy, requests(policy, 24))
        assert policy.stats().generated_tokens == sum(len(c.token_ids) for cs in found for c in cs)
        used = pids(policy)
        await policy.aclose()
        return found, used

    in_thread, none = asyncio.run(run(0))
    in_processes, two = asyncio.run(run(2))
    assert len(none) == 0
    assert len(two) == 2
    assert not any(psutil.pid_exists(pid) for pid in two)
    for a, b in zip(in_thread, in_processes, strict=True):
        assert [replace(c, logprobs=()) for c in a] == [replace(c, logprobs=()) for c in b]
        for x, y in zip(a, b, strict=True):
            assert x.logprobs == pytest.approx(y.logprobs, abs=1e-9)


async def kill_before_it_answers(policy: TransformersPolicy) -> None:
    (victim,) = pids(policy)
    os.kill(victim, signal.SIGSTOP)
    await asyncio.sleep(0.05)  # what was asked is on its way
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(STARTS_TIMEOUT_S):
        while pids(policy) == [victim]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.timeout(STARTS_TIMEOUT_S)
def test_requests_of_a_killed_replica_are_answered_by_a_fresh_one_or_fail_the_second_time(
    folder: Path,
) -> None:
    async def run() -> None:
        policy = TransformersPolicy(folder, num_replicas=1, dtype="float64")
        await policy.start()
        asked = requests(policy, 8, max_step_tokens=60)
        expected = await propose_all(policy, asked)
        again = asyncio.gather(*(policy.propose(request) for request in asked))
        await asyncio.sleep(0)
        await kill_before_it_answers(policy)
        for a, b in zip(expected, await again, strict=True):
            assert [c.token_ids for c in a] == [c.token_ids for c in b]
        waiting = asyncio.ensure_future(policy.propose(asked[0]))
        await asyncio.sleep(0)
        await kill_before_it_answers(policy)
        await kill_before_it_answers(policy)
        with pytest.raises(BackendError, match="signal 9, 2 times with this request"):
            await waiting
        await policy.aclose()

    asyncio.run(run())


PARENT = """
import asyncio, sys
from rstar.backends.transformers import TransformersPolicy
async def main():
    policy = TransformersPolicy(sys.argv[1], num_replicas=2)
    await policy.start()
    print(*policy._pool.pids, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.timeout(STARTS_TIMEOUT_S)
def test_replicas_end_when_their_parent_is_killed(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        replicas = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(replicas) == 2
    _, alive = psutil.wait_procs(replicas, timeout=30)
    assert not alive


def test_closing_fails_what_is_waiting_and_later_requests(folder: Path) -> None:
    asyncio.run(check_closed(TransformersPolicy(folder, num_replicas=0)))


def test_a_request_that_is_cancelled_leaves_the_others_alone(folder: Path) -> None:
    async def run() -> None:
        policy = TransformersPolicy(folder, num_replicas=0)
        asked = requests(policy, 4, max_step_tokens=100)
        tasks = [asyncio.ensure_future(policy.propose(request)) for request in asked]
        await policy.start()
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert all(isinstance(answer, list) and len(answer) == 3 for answer in done[1:])
        assert all(place.load == 0 and not place.jobs for place in policy._pool._places)
        await policy.aclose()

    asyncio.run(run())


def test_render_chat_uses_the_models_template_or_says_that_there_is_none(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    messages = [{"role": "user", "content": "2 + 3?"}]
    with pytest.raises(ConfigError, match="no chat template"):
        TransformersPolicy(folder, num_replicas=0).render_chat(messages)
    tokenizer = train_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[me]{% endif %}"
    tokenizer.save_pretrained(folder)
    assert TransformersPolicy(folder, num_replicas=0).render_chat(messages) == "[user]2 + 3?[me]"


def test_wrong_folders_and_settings_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    untokenised = save_model(tmp_path / "untokenised")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (untokenised / name).unlink()
    mismatch = save_model(tmp_path / "mismatch", vocab_size=100, eos_token_id=0, bos_token_id=0)
    window = save_model(tmp_path / "window", "mistral")
    cases: list[tuple[Path, dict[str, object], str]] = [
        (tmp_path / "nowhere", {}, "does not exist"),
        (empty, {}, "no config.json"),
        (untokenised, {}, "no tokenizer"),
        (mismatch, {}, "the model only 100 embeddings"),
        (window, {"max_context_tokens": 64}, "window of 32 tokens"),
        (folder, {"max_context_tokens": 10_000}, "has 256 positions"),
        (folder, {"dtype": "float12"}, "'float12' is not one of"),
        (folder, {"max_batch_rows": 0}, "max_batch_rows is 0"),
        (folder, {"prefix_cache_mb": -1}, "prefix_cache_mb is -1"),
        (folder, {"num_replicas": -1}, "num_replicas is -1"),
        (folder, {"device": "abacus"}, "not a torch device"),
    ]
    if not torch.cuda.is_available():
        cases.append((folder, {"device": "cuda"}, "no usable CUDA device"))
    for model, arguments, expected in cases:
        with pytest.raises(ConfigError, match=expected) as caught:
            TransformersPolicy(model, **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_model_with_another_kind_of_memory_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "mamba")
    policy = TransformersPolicy(folder, num_replicas=0, max_context_tokens=64)
    with pytest.raises(ConfigError, match="keeps more than keys and values"):
        asyncio.run(policy.start())


@pytest.mark.timeout(STARTS_TIMEOUT_S)
def test_a_model_that_cannot_be_loaded_is_a_config_error_from_its_process(tmp_path: Path) -> None:
    folder = save_model(tmp_path)
    (folder / "model.safetensors").write_bytes(b"not a model")

    async def run() -> None:
        policy = TransformersPolicy(folder, num_replicas=1)
        for _ in range(2):  # and again for the next request
            with pytest.raises(ConfigError, match="cannot load the model"):
                await policy.propose(requests(policy, 1)[0])
        await policy.aclose()

    asyncio.run(run())


def test_the_contract_and_the_back_end_module_import_without_torch() -> None:
    code = (
        "import sys, rstar.protocols, rstar.backends.transformers;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_stats_tell_what_was_done(folder: Path) -> None:
    async def run() -> None:
        policy = TransformersPolicy(folder, num_replicas=0)
        asked = requests(policy, 8)
        started_s = time.perf_counter()
        await propose_all(policy, asked)
        elapsed_s = time.perf_counter() - started_s
        stats = policy.stats()
        assert stats.prefill_tokens == sum(len(request.prefix_ids) for request in asked)
        assert 0 < stats.cached_tokens < stats.prefill_tokens
        assert 0 < stats.cache_hit_share < 1
        assert 1 <= stats.mean_batch_rows <= 24 + 8 * 8
        assert 0 < stats.busy_s <= elapsed_s
        await policy.aclose()

    asyncio.run(run())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = save_vllm_model(tmp_path_factory.mktemp("contract"))
    with serve(TransformersPolicy(model, num_replicas=0), model) as served:
        yield served


class TestContract(PolicyContract):
    """Of every policy."""
