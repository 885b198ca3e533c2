"""What every policy back-end over a model keeps: subclass `PolicyContract` and give it a fixture `served`.

    @pytest.fixture(scope="module")
    def served(model: Path) -> Iterator[Served]:
        with serve(MyPolicy(model), model) as served:
            yield served

    class TestContract(PolicyContract):
        pass

The model is `tiny_models.save_vllm_model`: random, far from uniform, a tokenizer of its own that has the tags. A back-end
that is a function and no model passes what needs none, `check_requests_do_not_touch_each_other`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from rstar.backends.loading import read_tokenizer, reference_logprobs
from rstar.backends.stops import StopFinder, TextDecoder
from rstar.errors import BackendError, ConfigError
from rstar.protocols import Candidate, FinishReason, PolicyBackend, ProposeRequest, SamplingConfig
from rstar.steps import STEP_STOPS, TAGS
from tests.rstar.backends.tiny_models import TEXTS

T = TypeVar("T")
PATIENCE_S = 120


@dataclass(frozen=True)
class Served:
    """A policy at work, the event loop that it belongs to, and what its model says without it."""

    policy: PolicyBackend
    folder: Path
    model: Any
    decoder: TextDecoder
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the policy's event loop."""

        async def patient() -> T:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        return self.runner.run(patient())

    def propose(self, *requests: ProposeRequest) -> list[list[Candidate]]:
        """All at once."""

        async def ask() -> list[list[Candidate]]:
            return list(await asyncio.gather(*map(self.policy.propose, requests)))

        return self.run(ask())

    def request(self, text: int = 0, **changes: Any) -> ProposeRequest:
        return request(self.policy, text, **changes)


@contextmanager
def serve(policy: PolicyBackend, folder: Path) -> Iterator[Served]:
    """The policy over the model in `folder`, closed in the end."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    decoder = TextDecoder(read_tokenizer(folder))
    with asyncio.Runner() as runner:
        try:
            yield Served(policy, folder, model, decoder, runner)
        finally:
            runner.run(policy.aclose())


def request(policy: PolicyBackend, text: int = 0, **changes: Any) -> ProposeRequest:
    """Three candidates of at most 24 tokens after one of the texts; `changes` are of the request or of its sampling."""
    sampling = {
        name: changes.pop(name)
        for name in ("temperature", "top_p", "top_k", "max_step_tokens")
        if name in changes
    }
    values: dict[str, Any] = {
        "prefix_ids": tuple(policy.encode(TEXTS[text])), "num_candidates": 3, "seed": text, "stop": STEP_STOPS,
        "group": f"tree {text}", "sampling": SamplingConfig(**{"max_step_tokens": 24, **sampling}),
    }  # fmt: skip
    return ProposeRequest(**{**values, **changes})


def tokens(candidates: Sequence[Candidate]) -> list[tuple[int, ...]]:
    return [candidate.token_ids for candidate in candidates]


async def check_requests_do_not_touch_each_other(policy: PolicyBackend, count: int = 8) -> None:
    """Equal requests get equal candidates: alone, among others, in another order, with more of them."""
    asked = [request(policy, text=i % len(TEXTS), seed=i) for i in range(count)]
    alone = [await policy.propose(one) for one in asked]
    again = await asyncio.gather(*map(policy.propose, reversed(asked)))
    more = await asyncio.gather(*(policy.propose(replace(one, num_candidates=5)) for one in asked))
    for a, b, c in zip(alone, reversed(again), more, strict=True):
        assert tokens(a) == tokens(b) == tokens(c)[:3]
        assert len(c) == 5
    assert len(set(map(str, map(tokens, alone)))) > 1, "another seed or prefix, other candidates"


async def check_closed(policy: PolicyBackend) -> None:
    """Closing fails what is waiting, also for the model to be loaded, and what comes later."""
    waiting = asyncio.ensure_future(policy.propose(request(policy, max_step_tokens=200, stop=())))
    await asyncio.sleep(0)
    await policy.aclose()
    with pytest.raises(BackendError, match="closed"):
        await waiting
    with pytest.raises(BackendError, match="closed"):
        await policy.propose(request(policy))


class PolicyContract:
    """The tests. Words in capitals are `FinishReason`s."""

    def test_it_is_a_policy_back_end(self, served: Served) -> None:
        assert isinstance(served.policy, PolicyBackend)
        assert served.policy.max_context_tokens == 256

    def test_encoding_adds_nothing_and_finds_the_tags(self, served: Served) -> None:
        text = "".join(TEXTS) + "".join(TAGS)
        ids = served.policy.encode(text)
        assert served.decoder.decode(ids) == text
        assert all(served.policy.encode(tag) == served.policy.encode("a" + tag)[-1:] for tag in TAGS)

    def test_a_model_without_a_chat_template_says_so(self, served: Served) -> None:
        with pytest.raises(ConfigError, match="no chat template"):
            served.policy.render_chat([{"role": "user", "content": "2 + 2?"}])

    @pytest.mark.parametrize("count", [0, 1, 20])
    def test_there_are_as_many_candidates_as_asked_for(self, served: Served, count: int) -> None:
        (found,) = served.propose(served.request(num_candidates=count))
        assert len(found) == count
        assert len(set(tokens(found))) == count

    def test_requests_do_not_touch_each_other(self, served: Served) -> None:
        served.run(check_requests_do_not_touch_each_other(served.policy))

    def test_without_temperature_every_candidate_is_the_models_most_probable(self, served: Served) -> None:
        requests = [served.request(text, temperature=0.0) for text in range(len(TEXTS))]
        for asked, (first, *others) in zip(requests, served.propose(*requests), strict=True):
            assert tokens(others) == [first.token_ids] * 2
            ids = torch.tensor([[*asked.prefix_ids, *first.token_ids]])
            with torch.inference_mode():
                best = served.model(ids).logits[0].argmax(-1)
            assert first.token_ids == tuple(best[len(asked.prefix_ids) - 1 : -1].tolist())

    @pytest.mark.parametrize(
        "sampling", [{}, {"temperature": 0.5}, {"top_p": 0.6}, {"top_k": 4}, {"temperature": 0.0}], ids=str
    )
    def test_logprobs_are_the_models_own_whatever_the_sampling(
        self, served: Served, sampling: dict[str, Any]
    ) -> None:
        requests = [served.request(text, **sampling) for text in range(len(TEXTS))]
        for asked, candidates in zip(requests, served.propose(*requests), strict=True):
            for candidate in candidates:
                expected = reference_logprobs(served.model, asked.prefix_ids, candidate.token_ids)
                assert torch.allclose(torch.tensor(candidate.logprobs), expected.float(), atol=1e-3)

    def test_sampling_cuts_the_tail(self, served: Served) -> None:
        asked = served.request(top_k=2, num_candidates=8, stop=())
        for candidate in served.propose(asked)[0]:
            ids = torch.tensor([[*asked.prefix_ids, *candidate.token_ids]])
            with torch.inference_mode():
                top = served.model(ids).logits[0, len(asked.prefix_ids) - 1 : -1].topk(2).indices
            assert (top == torch.tensor(candidate.token_ids)[:, None]).any(-1).all()

    def test_a_candidate_ends_where_its_text_first_holds_a_stop_text(self, served: Served) -> None:
        """Whatever tokens spell it: a stop text here is a piece of what the model writes without one."""
        num_in_pieces = 0
        for text in range(len(TEXTS)):
            (free,) = served.propose(served.request(text, stop=()))
            for i, candidate in enumerate(free):
                pieces = [served.decoder.piece(token_id) for token_id in candidate.token_ids]
                middle = "".join(pieces[4:7])[1:]
                if not middle.isascii() or len(middle) < 2:
                    continue
                num_in_pieces += 1
                stop = (middle, TAGS[0])
                found = served.propose(served.request(text, stop=stop))[0][i]
                expected = naive_stop(served.decoder, candidate, stop)
                assert replace(found, logprobs=()) == expected
        assert num_in_pieces > 2

    def test_a_stop_text_of_one_token_ends_a_candidate_and_stays_in_it(self, served: Served) -> None:
        (free,) = served.propose(served.request(stop=()))
        pieces = [served.decoder.piece(token_id) for token_id in free[0].token_ids]
        (found,) = served.propose(served.request(stop=(pieces[3],)))
        assert replace(found[0], logprobs=()) == naive_stop(served.decoder, free[0], (pieces[3],))
        assert found[0].text.endswith(pieces[3])
        assert found[0].finish_reason is FinishReason.STOP

    def test_a_candidate_has_length_at_its_bound_and_at_the_end_of_the_context(self, served: Served) -> None:
        (found,) = served.propose(served.request(max_step_tokens=7, stop=()))
        assert [(len(c.token_ids), c.finish_reason) for c in found] == [(7, FinishReason.LENGTH)] * 3
        long = (11,) * (served.policy.max_context_tokens - 5)
        (found,) = served.propose(served.request(prefix_ids=long, stop=()))
        assert [(len(c.token_ids), c.finish_reason) for c in found] == [(5, FinishReason.LENGTH)] * 3

    @pytest.mark.parametrize("beyond", [0, 1, 100])
    def test_a_prefix_that_fills_the_context_gets_empty_candidates(self, served: Served, beyond: int) -> None:
        prefix_ids = (11,) * (served.policy.max_context_tokens + beyond)
        (found,) = served.propose(served.request(prefix_ids=prefix_ids))
        nothing = Candidate(text="", token_ids=(), logprobs=(), finish_reason=FinishReason.LENGTH)
        assert found == [nothing] * 3

    @pytest.mark.parametrize("prefix_ids", [(), (0, 100_000), (-1,)], ids=["empty", "too large", "negative"])
    def test_a_wrong_prefix_is_a_backend_error(self, served: Served, prefix_ids: tuple[int, ...]) -> None:
        with pytest.raises(BackendError, match="a request with"):
            served.propose(served.request(prefix_ids=prefix_ids))

    def test_a_request_that_is_cancelled_leaves_the_others_alone(self, served: Served) -> None:
        asked = [served.request(text, stop=(), max_step_tokens=100) for text in range(len(TEXTS))]
        expected = served.propose(*asked)

        async def cancel_one() -> list[Any]:
            tasks = [asyncio.ensure_future(served.policy.propose(one)) for one in asked]
            await asyncio.sleep(0.05)
            tasks[0].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        cancelled, *others = served.run(cancel_one())
        assert isinstance(cancelled, asyncio.CancelledError)
        assert [tokens(found) for found in others] == [tokens(found) for found in expected[1:]]


def naive_stop(decoder: TextDecoder, candidate: Candidate, stop: tuple[str, ...]) -> Candidate:
    """What is left of a candidate if one of these texts ends it; no log-probabilities."""
    finder = StopFinder(stop, decoder)
    ids = candidate.token_ids
    for end in range(1, len(ids) + 1):
        text = decoder.decode(ids[:end])
        if any(one in text for one in stop):
            return Candidate(
                text=finder.cut(text), token_ids=ids[:end], logprobs=(), finish_reason=FinishReason.STOP
            )
    return replace(candidate, logprobs=())
