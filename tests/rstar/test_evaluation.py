"""From candidates to nodes: parsed, merged, run, judged, scored; every way to end has its reason and its count."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest

from rstar import evaluation
from rstar.backends.scripted import ScriptedPolicy, ScriptedValue
from rstar.config import Guidance, SearchConfig
from rstar.errors import BackendError, GradingError, SandboxError
from rstar.evaluation import Engines, SearchCounts, asking, evaluate, together
from rstar.mcts import expand
from rstar.prompts import Prefix
from rstar.protocols import (
    AnswerJudge,
    Candidate,
    ExecutionResult,
    ExecutionVerdict,
    FinishReason,
    Reward,
    RunRequest,
    ScoreRequest,
)
from rstar.steps import END_OF_ANSWER, END_OF_CODE, END_OF_STEP
from rstar.trajectories import prefix_of
from rstar.tree import ROOT, Node, TerminalReason, check_invariants
from tests.rstar.fakes import InProcessSandbox, TextJudge
from tests.rstar.worlds import coarse_value, engines, new_tree


def candidate(text: str, *, logprob: float = -0.5, cut: bool = False) -> Candidate:
    ids = tuple(text.encode())
    reason = FinishReason.LENGTH if cut else FinishReason.STOP
    return Candidate(text=text, token_ids=ids, logprobs=(logprob,) * len(ids), finish_reason=reason)


def code(text: str) -> str:
    return f"{text}\n{END_OF_STEP}"


def final(text: str) -> str:
    return f"{text}\n{END_OF_CODE}"


def answer(content: str, words: str = "So ") -> str:
    return rf"<answer>{words}\boxed{{{content}}}{END_OF_ANSWER}"


class Growing:
    """A tree that grows by one expansion at a time."""

    def __init__(
        self,
        *,
        parts: Engines | None = None,
        judge: AnswerJudge | None = None,
        config: SearchConfig | None = None,
        max_context_tokens: int = 1 << 20,
    ) -> None:
        policy = ScriptedPolicy(lambda prefix, chance: "", max_context_tokens=max_context_tokens)
        self.parts = parts or engines(policy)
        self.judge = judge or TextJudge("1")
        self.config = config or SearchConfig()
        self.tree = new_tree()
        self.counts = SearchCounts()
        self.sampled = 0

    def prefix(self, node_id: int) -> Prefix:
        return prefix_of(
            self.tree, node_id, prompt="Q<code>\n", encode=self.parts.policy.encode,
            max_output_chars=self.config.max_output_chars,
        )  # fmt: skip

    def expand(self, parent_id: int, *candidates: Candidate | str) -> list[Node]:
        """The new children."""
        sampled = [c if isinstance(c, Candidate) else candidate(c) for c in candidates]
        found = asyncio.run(
            evaluate(
                self.tree, parent_id, sampled, self.prefix(parent_id), engines=self.parts, judge=self.judge,
                config=self.config, counts=self.counts, rollout=3,
            )
        )  # fmt: skip
        children = expand(self.tree, parent_id, found)
        check_invariants(self.tree)
        return [self.tree.nodes[child] for child in children]


def test_a_step_that_runs_keeps_its_text_ids_output_and_mean_log_probability() -> None:
    growing = Growing()
    text = code("x = 2\nprint(x)")
    (node,) = growing.expand(ROOT, candidate(text, logprob=-0.25))
    assert (node.text, node.token_ids, node.stdout) == (text, tuple(text.encode()), "2\n")
    assert (node.depth, node.rollout, node.multiplicity, node.mean_logprob) == (1, 3, 1, -0.25)
    assert (node.live, node.terminal, node.visit_count) == (True, None, 0)


def test_equal_texts_run_once_and_become_one_node_with_their_multiplicity() -> None:
    sandbox = InProcessSandbox()
    growing = Growing(parts=engines(lambda p, c: "", sandbox=sandbox))
    nodes = growing.expand(ROOT, code("x = 1"), code("x = 2"), code("x = 1"), code("x = 1"))
    assert [(node.text, node.multiplicity) for node in nodes] == [(code("x = 1"), 3), (code("x = 2"), 1)]
    assert len(sandbox.requests) == growing.tree.num_executions == 2
    assert growing.counts.executions == {ExecutionVerdict.OK: 2}


class HalfJudge(TextJudge):
    """1/2 and 0.5 are equal."""

    async def equal(self, answers: Sequence[str]) -> list[int]:
        return await super().equal([a.replace("0.5", "1/2") for a in answers])

    async def judge(self, answer: str) -> Reward | None:
        return await super().judge(answer.replace("0.5", "1/2"))


def test_answers_that_grade_equal_become_one_node_with_the_multiplicity_of_all() -> None:
    growing = Growing(judge=HalfJudge("1/2"))
    growing.expand(ROOT, final("print(0.5)"))
    nodes = growing.expand(
        1,
        answer("3"),
        answer("1/2"),
        answer("0.5"),
        answer("1/2", "Thus "),
        answer("3"),
        answer("0.5", "Hence "),
    )
    assert [(node.answer, node.multiplicity, node.verified) for node in nodes] == [
        ("3", 2, False),
        ("1/2", 4, True),
    ]
    assert (growing.tree.root.visit_count, growing.tree.root.value_sum) == (2, 0.0)
    assert growing.counts.terminals == {TerminalReason.ANSWERED: 2}


def test_a_failed_step_is_kept_with_its_error_and_not_valued() -> None:
    value = ScriptedValue(coarse_value)
    growing = Growing(parts=engines(lambda p, c: "", value=value), config=SearchConfig(guidance=Guidance.PPM))
    failed, fine = growing.expand(ROOT, code("print('before')\nx = 1 / 0"), code("x = 1"))
    assert (failed.execution, failed.error) == (ExecutionVerdict.ERROR, "ZeroDivisionError: division by zero")
    assert (failed.stdout, failed.terminal, failed.initial_value, failed.visit_count) == (
        "before\n",
        None,
        None,
        0,
    )
    assert fine.initial_value == coarse_value(growing.prefix(ROOT).text + fine.text)
    assert growing.counts.executions == {ExecutionVerdict.OK: 1, ExecutionVerdict.ERROR: 1}


def test_fault_3_the_word_error_in_the_output_of_a_fine_program_means_nothing() -> None:
    (node,) = Growing().expand(ROOT, code("print('Error: the margin of error is 3')"))
    assert node.live
    assert node.stdout == "Error: the margin of error is 3\n"


def test_fault_3_boxed_in_a_comment_is_no_answer() -> None:
    (node,) = Growing().expand(ROOT, code(r"# the answer is \boxed{1}"))
    assert (node.terminal, node.answer) == (None, None)


def test_fault_19_an_output_block_of_the_policys_own_is_unparsable_and_counted() -> None:
    growing = Growing()
    nodes = growing.expand(
        ROOT,
        "print(1)\n<output>",
        "print(1)\n<output>",
        f"x\n<output>1<end_of_output>{END_OF_STEP}",
        code("x = 1"),
    )
    assert [node.terminal for node in nodes] == [TerminalReason.UNPARSABLE, TerminalReason.UNPARSABLE, None]
    assert "its own <output> block" in nodes[0].error
    assert growing.counts.own_outputs == 3


def test_what_does_not_parse_ends_with_the_reason_and_minus_1() -> None:
    growing = Growing()
    nodes = growing.expand(ROOT, "hmm", answer("1"), code("x = 1"))
    assert [node.terminal for node in nodes] == [TerminalReason.UNPARSABLE, TerminalReason.UNPARSABLE, None]
    assert [node.error for node in nodes[:2]] == [
        "no closing tag at the end of the step",
        "an answer before <end_of_code>",
    ]
    assert [node.value_sum for node in nodes] == [-1, -1, 0]
    assert growing.counts.terminals == {TerminalReason.UNPARSABLE: 2}


def test_a_completion_cut_by_a_token_limit_ends_there_even_if_its_text_would_parse() -> None:
    growing = Growing()
    nodes = growing.expand(
        ROOT, candidate(code("x = 1"), cut=True), code("x = 1"), candidate("x =", cut=True)
    )
    assert [node.terminal for node in nodes] == [
        TerminalReason.CONTEXT_OVERFLOW,
        None,
        TerminalReason.CONTEXT_OVERFLOW,
    ]
    assert nodes[0].error == "cut by a token limit"
    assert growing.tree.num_executions == 1


def test_the_deepest_node_may_be_an_answer_and_nothing_else() -> None:
    sandbox = InProcessSandbox()
    growing = Growing(parts=engines(lambda p, c: "", sandbox=sandbox), config=SearchConfig(max_depth=2))
    growing.expand(ROOT, final("print(1)"), code("x = 1"))
    (answered,) = growing.expand(1, answer("1"))
    assert answered.terminal is TerminalReason.ANSWERED
    too_deep = growing.expand(2, code("x = 2"), final("print(x)"))
    assert [node.terminal for node in too_deep] == [TerminalReason.MAX_DEPTH] * 2
    assert too_deep[0].error == "no answer within depth 2"
    assert len(sandbox.requests) == 2  # what is too deep does not run


@pytest.mark.parametrize(
    ("limit", "terminal"),
    [(-1, TerminalReason.CONTEXT_OVERFLOW), (0, TerminalReason.CONTEXT_OVERFLOW), (1, None)],
)
def test_fault_17_a_step_that_leaves_no_room_for_one_token_overflows_the_context(
    limit: int, terminal: TerminalReason | None
) -> None:
    text = final("print(12345)")
    longer = len("Q<code>\n" + text + "\n<output>12345<end_of_output>\n")
    (node,) = Growing(max_context_tokens=longer + limit).expand(ROOT, text)
    assert node.terminal is terminal
    assert node.error == ("no room for a next step" if terminal else "")


def test_an_answer_needs_no_room_after_it() -> None:
    growing = Growing(max_context_tokens=80)
    growing.expand(ROOT, final("print(1)"))
    text = answer("1")
    assert len(growing.prefix(1)) + len(text) > 80
    (node,) = growing.expand(1, text)
    assert node.terminal is TerminalReason.ANSWERED


def test_each_step_runs_in_the_state_that_its_ancestors_left_and_only_there() -> None:
    sandbox = InProcessSandbox()
    growing = Growing(parts=engines(lambda p, c: "", sandbox=sandbox), config=SearchConfig(max_depth=4))
    growing.expand(ROOT, code("x = 1"), code("secret = 5"))
    growing.expand(1, code("y = x + 1"), final("print(x)"), code("print(secret)"))
    growing.expand(3, final("print(x + y)"))
    requests = sandbox.requests
    assert [(request.code, request.history) for request in requests] == [
        ("x = 1\n", ()),
        ("secret = 5\n", ()),
        ("y = x + 1\n", ("x = 1\n",)),
        ("print(x)\n", ("x = 1\n",)),
        ("print(secret)\n", ("x = 1\n",)),
        ("print(x + y)\n", ("x = 1\n", "y = x + 1\n")),
    ]
    assert {request.group for request in requests} == {"p#0"}
    assert [request.last_child for request in requests] == [False, True, False, False, True, True]
    # Nothing runs after a last code step, nor below the depth of which only answers may follow.
    assert [request.keep_state for request in requests] == [True, True, True, False, True, False]
    assert growing.tree.nodes[5].error == "NameError: name 'secret' is not defined"
    assert growing.tree.nodes[6].stdout == "3\n"


def test_no_state_is_kept_where_every_child_would_be_too_deep_to_run() -> None:
    sandbox = InProcessSandbox()
    growing = Growing(parts=engines(lambda p, c: "", sandbox=sandbox), config=SearchConfig(max_depth=2))
    growing.expand(ROOT, code("x = 1"))
    assert [request.keep_state for request in sandbox.requests] == [False]


# --- what answers are worth ---


def grown(
    judge: AnswerJudge, value: Callable[[str], float] | None = None, guidance: Guidance = Guidance.TERMINAL
) -> Growing:
    growing = Growing(
        parts=engines(lambda p, c: "", value=value), judge=judge, config=SearchConfig(guidance=guidance)
    )
    growing.expand(ROOT, final("print(1)"), final("print(2)"))
    return growing


def test_with_a_reference_an_answer_is_worth_what_the_judge_says() -> None:
    right, wrong = grown(TextJudge("1"), value=coarse_value).expand(1, answer("1"), answer("2"))
    assert [(node.value_sum, node.verified) for node in (right, wrong)] == [(1, True), (-1, False)]
    assert right.initial_value is None


def test_fault_10_without_a_judge_an_answer_is_worth_the_score_of_its_whole_trajectory() -> None:
    growing = grown(TextJudge(None), value=coarse_value, guidance=Guidance.PPM)
    prefix = growing.prefix(1).text
    assert "<output>1<end_of_output>" in prefix
    first, second = growing.expand(1, answer("1"), answer("2"))
    for node in (first, second):
        assert node.value_sum == node.initial_value == coarse_value(prefix + node.text)
        assert node.verified is None
        assert not node.scored


def test_fault_10_without_a_judge_or_a_value_model_an_answer_is_worth_its_share_so_far() -> None:
    growing = grown(HalfJudge(None))
    one, half = growing.expand(1, answer("1"), answer("1/2"), answer("1"), answer("1"))
    assert (one.value_sum, half.value_sum) == (2 * 3 / 4 - 1, 2 * 1 / 4 - 1)
    again, new = growing.expand(2, answer("0.5"), answer("7"))
    assert (again.value_sum, new.value_sum) == (2 * 2 / 6 - 1, 2 * 1 / 6 - 1)
    assert [node.verified for node in (one, half, again, new)] == [None] * 4


class PartialJudge(TextJudge):
    """Knows only that "1" is right."""

    async def judge(self, answer: str) -> Reward | None:
        return Reward(value=1.0, verified=True) if answer == "1" else None


def test_a_judge_may_leave_single_answers_to_the_value_model() -> None:
    right, unknown = grown(PartialJudge("1"), value=lambda text: 0.25).expand(1, answer("1"), answer("2"))
    assert (right.value_sum, right.verified, right.initial_value) == (1.0, True, None)
    assert (unknown.value_sum, unknown.verified, unknown.initial_value) == (0.25, None, 0.25)


@pytest.mark.parametrize("score", [1.01, -2.0, math.nan, math.inf])
def test_a_score_outside_its_range_is_the_back_ends_failure(score: float) -> None:
    growing = Growing(
        parts=engines(lambda p, c: "", value=lambda text: score), config=SearchConfig(guidance=Guidance.PPM)
    )
    with pytest.raises(BackendError, match=r"scores are in \[-1, 1\]"):
        growing.expand(ROOT, code("x = 1"))


class ShortValue(ScriptedValue):
    async def score(self, request: ScoreRequest) -> list[float]:
        return [0.0]


def test_too_few_scores_are_the_back_ends_failure() -> None:
    growing = Growing(
        parts=engines(lambda p, c: "", value=ShortValue(coarse_value)),
        config=SearchConfig(guidance=Guidance.PPM),
    )
    with pytest.raises(BackendError, match="gave 1 scores for 2 steps"):
        growing.expand(ROOT, code("x = 1"), code("x = 2"))


# --- asking again, and together ---


@pytest.mark.parametrize("error", [BackendError, SandboxError, GradingError])
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_fault_14_a_part_that_fails_is_asked_again_with_growing_pauses(
    error: type[Exception], failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(delay_s: float) -> None:
        pauses.append(delay_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    calls = 0

    async def ask(question: str) -> str:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise error("out of order")
        return question.upper()

    counts = SearchCounts()
    assert asyncio.run(asking(ask, "hello", counts)) == "HELLO"
    assert (calls, counts.retries) == (failures + 1, failures)
    assert pauses == list(evaluation.RETRY_DELAYS_S[:failures])
    assert pauses == sorted(pauses)


def test_fault_14_a_part_that_stays_out_of_order_is_reported_and_other_errors_are_never_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "RETRY_DELAYS_S", (0.0, 0.0))
    calls = 0

    async def broken(question: type[Exception]) -> None:
        nonlocal calls
        calls += 1
        raise question(f"call {calls}")

    counts = SearchCounts()
    with pytest.raises(BackendError, match="call 3"):
        asyncio.run(asking(broken, BackendError, counts))
    assert counts.retries == 2
    with pytest.raises(KeyError, match="call 4"):
        asyncio.run(asking(broken, KeyError, counts))
    assert counts.retries == 2


def test_together_keeps_the_order_and_leaves_nothing_running_when_one_fails() -> None:
    ended: list[str] = []

    async def part(name: str, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
            if name == "bad":
                raise SandboxError("out of order")
            return name
        finally:
            ended.append(name)

    async def parts(specs: Iterable[tuple[str, float]]) -> list[str]:
        coroutines: list[Coroutine[Any, Any, str]] = [part(name, seconds) for name, seconds in specs]
        try:
            return await together(coroutines)
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    assert asyncio.run(parts([("slow", 0.01), ("fast", 0)])) == ["slow", "fast"]
    assert asyncio.run(parts([])) == []
    ended.clear()
    with pytest.raises(SandboxError):
        asyncio.run(parts([("never", 3600), ("bad", 0)]))
    assert sorted(ended) == ["bad", "never"]


class FailingOnce(InProcessSandbox):
    """Fails the first request of each code."""

    async def run(self, request: RunRequest) -> ExecutionResult:
        if request.code not in {earlier.code for earlier in self.requests}:
            self.requests.append(request)
            raise SandboxError("a worker died")
        return await super().run(request)


def test_a_sandbox_that_fails_is_not_a_program_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "RETRY_DELAYS_S", (0.0,))
    growing = Growing(parts=engines(lambda p, c: "", sandbox=FailingOnce()))
    nodes = growing.expand(ROOT, code("x = 1"), code("x = 1 / 0"))
    assert [node.execution for node in nodes] == [ExecutionVerdict.OK, ExecutionVerdict.ERROR]
    assert growing.counts.retries == 2
    assert growing.counts.executions == {ExecutionVerdict.OK: 1, ExecutionVerdict.ERROR: 1}
