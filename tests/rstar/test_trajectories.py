"""Trajectories and prefixes rebuilt from a stored tree: what training reads is what the search showed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar.backends.scripted import Respond, ScriptedPolicy
from rstar.config import Guidance, SearchConfig
from rstar.demonstrations import Demonstration
from rstar.prompts import BARE, PromptFormat, render_prompt
from rstar.protocols import Candidate, ProposeRequest, ScoreRequest
from rstar.steps import StepKind, after_step, parse_solution
from rstar.trajectories import prefix_of, shown_output, trajectories
from rstar.tree import ROOT, TerminalReason
from tests.rstar.worlds import RandomWorld, coarse_value, engines, new_tree, search_one

FEW_SHOT = PromptFormat(
    name="few", demonstrations=(Demonstration(question="1?", solution="<code>\nprint(1)\n<end_of_code>"),)
)
worlds = st.builds(
    RandomWorld, final=st.floats(0.1, 0.6), crash=st.sampled_from([0.0, 0.2]), variants=st.integers(1, 5)
)


class RecordingPolicy(ScriptedPolicy):
    """Remembers every prefix that it was asked to continue."""

    def __init__(self, respond: Respond) -> None:
        super().__init__(respond)
        self.requests: list[ProposeRequest] = []

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        self.requests.append(request)
        return await super().propose(request)


class RecordingValue:
    def __init__(self) -> None:
        self.requests: list[ScoreRequest] = []

    async def score(self, request: ScoreRequest) -> list[float]:
        self.requests.append(request)
        return [coarse_value(request.prefix_text + text) for text in request.step_texts]

    async def aclose(self) -> None:
        pass


@given(worlds, st.integers(0, 1000), st.sampled_from([BARE, FEW_SHOT]), st.sampled_from([1, 5, 2000]))
@settings(max_examples=40)
def test_fault_8_prefixes_rebuilt_from_a_tree_are_the_ids_that_the_policy_and_the_value_model_read(
    world: RandomWorld, seed: int, format: PromptFormat, max_output_chars: int
) -> None:
    policy, value = RecordingPolicy(world.respond), RecordingValue()
    config = SearchConfig(
        num_rollouts=4,
        num_candidates=3,
        max_depth=5,
        guidance=Guidance.PPM,
        max_output_chars=max_output_chars,
    )
    tree = new_tree(seed=seed)
    search_one(tree, engines(policy, value=value), config, format=format)
    prompt = render_prompt(format, tree.question)
    rebuilt = {
        node_id: prefix_of(
            tree, node_id, prompt=prompt, encode=policy.encode, max_output_chars=max_output_chars
        )
        for node_id, node in enumerate(tree.nodes)
        if node.children
    }
    assert sorted(prefix.token_ids for prefix in rebuilt.values()) == sorted(
        request.prefix_ids for request in policy.requests
    )
    by_ids = {prefix.token_ids: (node_id, prefix) for node_id, prefix in rebuilt.items()}
    for request in value.requests:
        node_id, prefix = by_ids[request.prefix_ids]
        assert request.prefix_text == prefix.text
        children = [tree.nodes[child] for child in tree.nodes[node_id].children]
        texts_and_ids = [(child.text, child.token_ids) for child in children if child.live]
        for pair in zip(request.step_texts, request.step_ids, strict=True):
            assert pair in texts_and_ids


@given(worlds, st.integers(0, 1000))
@settings(max_examples=40)
def test_fault_6_each_childs_prefix_is_its_parents_text_and_the_step(world: RandomWorld, seed: int) -> None:
    config = SearchConfig(num_rollouts=4, num_candidates=3, max_depth=5)
    policy = ScriptedPolicy(world.respond)
    tree = search_one(new_tree(seed=seed), engines(policy), config)
    prompt = render_prompt(BARE, tree.question)
    for node_id, node in enumerate(tree.nodes):
        if node_id == ROOT or node.kind is None or not node.live:
            continue
        parent, child = (
            prefix_of(tree, at, prompt=prompt, encode=policy.encode, max_output_chars=2000)
            for at in (node.parent, node_id)
        )
        glue = after_step(node.kind, tree.program_output(node_id))
        assert child.text == parent.text + node.text + glue
        assert child.token_ids == (*parent.token_ids, *node.token_ids, *policy.encode(glue))
        assert child.loss_mask == (
            *parent.loss_mask,
            *([1] * len(node.token_ids)),
            *([0] * len(glue.encode())),
        )


@given(worlds, st.integers(0, 1000))
@settings(max_examples=40)
def test_a_trajectory_is_every_answered_path_and_holds_no_failed_step(world: RandomWorld, seed: int) -> None:
    config = SearchConfig(num_rollouts=5, num_candidates=4, max_depth=5)
    tree = search_one(new_tree(seed=seed), engines(world.respond), config)
    found = trajectories(tree)
    answered = [i for i, node in enumerate(tree.nodes) if node.terminal is TerminalReason.ANSWERED]
    assert [trajectory.node_ids[-1] for trajectory in found] == answered
    for trajectory in found:
        nodes = [tree.nodes[node_id] for node_id in trajectory.node_ids]
        assert all(node.live for node in nodes)
        assert trajectory.mean_q == pytest.approx(
            sum(n.value_sum / n.visit_count for n in nodes) / len(nodes)
        )
        assert abs(trajectory.mean_q) <= 1
        assert (trajectory.answer, trajectory.verified) == (nodes[-1].answer, nodes[-1].answer == "1")
        solution = parse_solution(trajectory.text)
        assert [step.text for step in solution.steps] == [node.text for node in nodes]
        assert [step.kind for step in solution.steps[-2:]] == [StepKind.FINAL_CODE, StepKind.ANSWER]
        assert solution.output == "".join(node.stdout for node in nodes).rstrip("\n")
        prefix = prefix_of(
            tree,
            trajectory.node_ids[-1],
            prompt="",
            encode=lambda text: list(text.encode()),
            max_output_chars=2000,
        )
        assert "<code>\n" + prefix.text == trajectory.text


def test_the_policy_is_shown_a_long_output_cut_with_how_much_is_gone() -> None:
    assert shown_output("12345", 5) == "12345"
    assert shown_output("123456789", 5) == "12345... [4 more characters]"
    printed = "x" * 50

    def respond(prefix: str, chance: object) -> str:
        if "<output>" in prefix:
            return r"<answer>\boxed{1}<end_of_answer>"
        return f"print('{printed}')\n<end_of_code>"

    policy = RecordingPolicy(respond)
    config = SearchConfig(num_rollouts=1, num_candidates=1, max_output_chars=20)
    tree = search_one(new_tree(), engines(policy), config)
    shown = bytes(policy.requests[-1].prefix_ids).decode()
    assert shown.endswith(f"<output>{'x' * 20}... [31 more characters]<end_of_output>\n")
    assert tree.nodes[1].stdout == printed + "\n"


def test_steps_that_do_not_parse_have_no_continuation() -> None:
    parts = engines(lambda prefix, chance: "hmm<end_of_answer>")
    tree = search_one(new_tree(), parts, SearchConfig(num_rollouts=1))
    with pytest.raises(AssertionError, match="has no continuation"):
        prefix_of(tree, 1, prompt="", encode=lambda text: [], max_output_chars=9)
    with pytest.raises(AssertionError, match="has no continuation"):
        tree.steps(1)
