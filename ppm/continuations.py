"""What a tree holds after a prefix, with the ids of the search: steps, and whole trajectories after the prompt."""

from __future__ import annotations

import dataclasses

from ppm.groups import Continuation
from rstar.prompts import Encode, Prefix, start
from rstar.steps import StepKind
from rstar.trajectories import extend_prefix
from rstar.tree import ROOT, Tree


class Prefixes:
    """What stands before a node's children, as the search showed it; each node's prefix is made once."""

    def __init__(self, tree: Tree, prompt: str, encode: Encode, max_output_chars: int) -> None:
        self._tree = tree
        self._encode = encode
        self._max_output_chars = max_output_chars
        self._known = {ROOT: start(prompt, encode)}

    def __getitem__(self, node_id: int) -> Prefix:
        if node_id not in self._known:
            node = self._tree.nodes[node_id]
            before = self[node.parent]
            stdout = self._tree.program_output(node_id) if node.kind is StepKind.FINAL_CODE else ""
            self._known[node_id] = extend_prefix(before, node, stdout, self._encode, self._max_output_chars)
        return self._known[node_id]


def step(tree: Tree, node_id: int) -> Continuation:
    """One step, after the prefix of its parent."""
    node = tree.nodes[node_id]
    return Continuation(
        node_id=node_id, text=node.text, token_ids=node.token_ids, q_value=node.q_value, depth=node.depth
    )


def trajectory(tree: Tree, answer_id: int, prefixes: Prefixes) -> Continuation:
    """All steps to an answer and the output between them, after the prompt."""
    node = tree.nodes[answer_id]
    after_prompt = Prefix(prefixes[answer_id].segments[len(prefixes[ROOT].segments) :])
    return Continuation(
        node_id=answer_id,
        text=after_prompt.text,
        token_ids=after_prompt.token_ids,
        q_value=node.q_value,
        depth=node.depth,
    )


def retokenized(tree: Tree, encode: Encode) -> Tree:
    """The tree with the text of every node encoded anew; the given tree stays as it is."""
    nodes = [dataclasses.replace(node, token_ids=tuple(encode(node.text))) for node in tree.nodes]
    return dataclasses.replace(tree, nodes=nodes)
