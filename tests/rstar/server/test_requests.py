"""What a request becomes: a question and a solver with options, or an error that names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from rstar import ConfigError, SearchConfig, Solver
from rstar.selection import Method
from rstar.server.config import ServerConfig
from rstar.server.errors import ApiError, api_error
from rstar.server.requests import ChatRequest, CompletionRequest, SearchRequest
from rstar.strategies import Strategy
from tests.rstar.server.serving import WORLD, chat

CONFIG = ServerConfig()


def solver() -> Solver:
    return Solver(WORLD.policy(), search=SearchConfig(num_rollouts=4, max_tree_tokens=5000), seed=7)


def only(request: ChatRequest | CompletionRequest | SearchRequest) -> Solver:
    ((_, found),) = request.solvers(solver(), CONFIG)
    return found


def test_a_request_without_options_is_searched_as_the_server_was_started() -> None:
    found = only(ChatRequest(**chat("1 + 1?")))
    assert found.options.search == solver().options.search
    assert found.options.seed == 7
    assert found.options.seconds == CONFIG.max_seconds


def test_every_option_reaches_the_search() -> None:
    found = only(
        ChatRequest(
            **chat(
                "1 + 1?", strategy="majority", num_rollouts=3, num_candidates=2, seconds=9.5, certainty=0.9,
                selection="majority", seed=11, temperature=0.5, top_p=0.9, max_completion_tokens=100,
            )
        )
    ).options  # fmt: skip
    assert (found.strategy, found.selection) == (Strategy.MAJORITY, Method.MAJORITY)
    assert (found.seconds, found.certainty, found.seed) == (9.5, 0.9, 11)
    search = found.search
    assert (search.num_rollouts, search.num_candidates, search.max_tree_tokens) == (3, 2, 100)
    assert (search.sampling.temperature, search.sampling.top_p) == (0.5, 0.9)


def test_of_several_budgets_the_least_counts() -> None:
    def budget(**tokens: int) -> int | None:
        return only(ChatRequest(**chat("1 + 1?", **tokens))).options.search.max_tree_tokens

    assert budget(max_tokens=80) == 80
    assert budget(max_tokens=80, max_completion_tokens=70) == 70
    assert budget(max_tokens=80_000) == 5000  # the server's own
    assert only(ChatRequest(**chat("1 + 1?", seconds=1e6))).options.seconds == CONFIG.max_seconds


def test_the_last_user_message_is_the_question_and_what_is_not_read_is_named() -> None:
    request = ChatRequest.model_validate({
        "model": "rstar",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "3 + 3?"},
            {"role": "assistant", "content": "6", "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "4 + 4?"}]},
        ],
    })  # fmt: skip
    assert request.questions() == ["And\n4 + 4?"]
    assert request.ignored() == ["messages[0] (system)", "messages[1] (user)", "messages[2] (assistant)"]


def test_choices_of_one_question_have_seeds_of_their_own_the_first_one_as_asked() -> None:
    request = CompletionRequest.model_validate(
        {"model": "rstar", "prompt": ["1 + 1?", "2 + 2?"], "n": 2, "seed": 5}
    )
    pairs = request.solvers(solver(), CONFIG)
    assert [question for question, _ in pairs] == ["1 + 1?", "1 + 1?", "2 + 2?", "2 + 2?"]
    seeds = [one.options.seed for _, one in pairs]
    assert seeds[0] == seeds[2] == 5
    assert seeds[1] == seeds[3] != 5


@pytest.mark.parametrize(
    "parameters",
    [
        {"user": "ada", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"stop": None, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "logprobs": False},
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "seed": None, "n": None},
    ],
)
def test_parameters_without_effect_are_accepted(parameters: dict[str, Any]) -> None:
    assert only(ChatRequest(**chat("1 + 1?", **parameters))).options.search == solver().options.search


@pytest.mark.parametrize(
    ("parameters", "message", "param"),
    [
        ({"num_rolouts": 3}, "unknown parameter 'num_rolouts'; did you mean num_rollouts?", "num_rolouts"),
        ({"xyz{}": 3}, "unknown parameter 'xyz{}'; there are certainty, max_completion_tokens", "xyz{}"),
        ({"stop": ["\n"]}, "stop is ['\\n'], which a search cannot follow; leave it out", "stop"),
        ({"logprobs": True}, "logprobs is True, which a search cannot follow; leave it out", "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format is {'type': 'json_object'}", "response_format"),
        ({"tools": [{"type": "function"}]}, "tools is [{'type': 'function'}], which", "tools"),
    ],
)  # fmt: skip
def test_parameters_that_would_have_no_effect_are_refused(
    parameters: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        ChatRequest(**chat("1 + 1?", **parameters))
    assert caught.value.detail.startswith(message)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("parameters", "message", "param"),
    [
        ({"num_rollouts": 0}, "num_rollouts is 0; it must be at least 1", "num_rollouts"),
        ({"num_rollouts": 257}, "num_rollouts is 257; this server allows 256", "num_rollouts"),
        ({"num_candidates": 65}, "num_candidates is 65; this server allows 64", "num_candidates"),
        ({"temperature": -1.0}, "sampling.temperature is -1.0; it must be at least 0", "temperature"),
        ({"top_p": 0.0}, "sampling.top_p is 0.0; it must be in (0, 1]", "top_p"),
        ({"max_tokens": 0}, "max_tree_tokens is 0; it must be at least 1, or null", "max_tokens"),
        ({"seconds": 0}, "seconds is 0.0; it must be above 0, or None", "seconds"),
        ({"certainty": 0.4}, "certainty is 0.4; it must be in (0.5, 1], or None", "certainty"),
        ({"strategy": "beam"}, "strategy beam needs a preference model and there is none", "strategy"),
        ({"selection": "best"}, "selection best needs a preference model and there is none", "selection"),
        ({"selection": "pass"}, "selection is pass; it must be one of majority, best,", "selection"),
        ({"n": 17}, "17 choices are asked for; this server allows 16", "n"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "the question is empty; ask one", "messages"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, "the question is not valid Unicode at character 1", "messages"),
        ({"messages": [{"role": "assistant", "content": "4"}]}, "the last message is of the assistant;", "messages"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_or_does_not_fit_is_named(
    parameters: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises((ApiError, ConfigError)) as caught:
        ChatRequest(**{**chat("1 + 1?"), **parameters}).solvers(solver(), CONFIG)
    told = api_error(caught.value)
    assert (told.status_code, told.param) == (400, param)
    assert told.detail.startswith(message)


def test_no_request_has_a_place_for_a_reference_answer() -> None:
    fields = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *SearchRequest.model_fields}
    assert not [name for name in fields if "reference" in name or "gold" in name or "truth" in name]
