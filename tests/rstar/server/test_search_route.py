"""`POST /v1/search`: the answer with its whole tree, at once or step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from rstar import Solver
from rstar.exports import from_json
from rstar.tree import check_invariants
from tests.rstar.server.serving import ONE_SHARD, SMALL, WORLD, serving

QUESTION = WORLD.problems(1)[0].question


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(WORLD.policy()) as address:
        yield address


def events(url: str, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of a search."""
    with httpx2.stream("POST", f"{url}/v1/search", json={**body, "stream": True}, timeout=250) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(response.iter_text()).split("\n\n")
    pairs = [block.split("\n") for block in blocks if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def test_the_tree_that_comes_is_the_tree_that_was_searched(url: str) -> None:
    found = httpx2.post(f"{url}/v1/search", json={"question": QUESTION, "seed": 3}, timeout=250).json()
    tree = from_json(json.dumps(found["tree"]))
    check_invariants(tree)
    with Solver(WORLD.policy(), search=SMALL, sandbox=ONE_SHARD) as solver:
        same = solver.solve(QUESTION, seed=3)
    assert tree == same.tree
    assert found["answer"] == same.answer
    assert found["object"] == "search"


def test_events_tell_every_step_once_and_end_with_answer_and_tree(url: str) -> None:
    told = events(url, {"question": QUESTION})
    kinds = [kind for kind, _ in told]
    assert kinds == ["search", *["steps"] * (len(told) - 2), "answer"]
    tree = from_json(json.dumps(told[-1][1]["tree"]))
    steps = [step for kind, data in told if kind == "steps" for step in data["steps"]]
    assert [step["id"] for step in steps] == list(range(1, len(tree.nodes)))
    for step in steps:
        node = tree.nodes[step["id"]]
        assert (step["text"], step["parent"], step["stdout"]) == (node.text, node.parent, node.stdout)


def test_a_question_that_fills_the_context_is_refused_whole_and_streamed() -> None:
    body = {"question": QUESTION}
    with serving(WORLD.policy(max_context_tokens=20)) as url:
        refused = httpx2.post(f"{url}/v1/search", json=body, timeout=250)
        *_, last = events(url, body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert last == ("error", refused.json())
