"""What a listener is sent adds up to the tree, and what has not changed is not sent."""

from __future__ import annotations

import json
from typing import Any

from rstar.viewer import LiveTree
from rstar.viewer.columns import plain_tree
from tests.rstar.viewer.trees import NUM_ROLLOUTS, searched


def merged(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns by node id, as the page puts messages together."""
    nodes: dict[int, dict[str, Any]] = {}
    for message in messages:
        columns = message["tree"]["nodes"]
        for at, node_id in enumerate(columns["id"]):
            nodes[node_id] = {name: column[at] for name, column in columns.items()}
    return {name: [nodes[at][name] for at in sorted(nodes)] for name in nodes[0]}


def test_the_messages_of_a_growing_tree_add_up_to_it() -> None:
    live = LiveTree("x")
    found = [live.message(searched(count)) for count in range(NUM_ROLLOUTS + 1)]
    messages = [message for message in found if message is not None]
    assert [message["tree"]["whole"] for message in messages] == [True] + [False] * (len(messages) - 1)
    assert merged(messages) == plain_tree(searched(), "x")["nodes"]
    later = sum(len(message["tree"]["nodes"]["id"]) for message in messages[1:])
    assert later < len(searched().nodes) * (len(messages) - 1) / 2


def test_a_tree_that_has_not_changed_is_not_sent_again() -> None:
    live = LiveTree("x", pane=1)
    event = live.event(searched())
    assert event.startswith("event: tree\ndata: {")
    assert event.endswith("}\n\n")
    assert json.loads(event.splitlines()[1].removeprefix("data: "))["pane"] == 1
    assert len(event.splitlines()) == 3, "one line of data, whatever the tree holds"
    assert live.event(searched()) == ""


def test_a_rollout_that_ends_without_new_nodes_is_sent() -> None:
    live, tree = LiveTree("x"), searched()
    live.message(tree)
    tree.num_rollouts += 1
    message = live.message(tree)
    assert message is not None
    assert (message["tree"]["num_rollouts"], message["tree"]["nodes"]["id"]) == (tree.num_rollouts, [])
    assert live.message(tree) is None
