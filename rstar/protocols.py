"""The seams of the search: what it asks of a policy, a value model, a sandbox and a reward.

Each is a Protocol with one awaitable method. The search imports only this file; models, executors and
graders arrive as arguments. Everything here is plain data: no torch, no sockets, no processes.

Token ids are the truth: requests carry the ids of the whole prefix, a child's prefix is its parent's
with ids appended, and the ids that the policy sampled are the ids that the trainer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How a policy samples one step.

    `temperature` 1 is the paper's for search (section 4.1); 0 means greedy. `top_p` in (0, 1] and `top_k` >= 0
    (0: off) cut the tail. `max_step_tokens` bounds one candidate.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_step_tokens: int = 256


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """At one of the stop texts, which is its last token(s)."""
    LENGTH = "length"
    """At `max_step_tokens`, or at the end of the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeRequest:
    """Ask for `num_candidates` continuations of one prefix.

    `seed` decides every random choice of this request: candidate i of equal requests is equal whatever else the
    back-end is doing. `group` names the tree: requests of one group share prefixes, so a back-end with several
    replicas should send them to the same one.
    """

    prefix_ids: tuple[int, ...]
    num_candidates: int
    seed: int
    sampling: SamplingConfig
    stop: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One proposed step. `text` and `token_ids` include the stop text; `logprobs` has one natural log per token."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@runtime_checkable
class PolicyBackend(Protocol):
    """Proposes next steps. Implementations batch whatever requests are waiting.

    `encode` tokenises what the engine writes (prompt, separators, program output), never what the policy wrote,
    and adds no special tokens. `max_context_tokens` bounds prefix plus completion.
    """

    @property
    def max_context_tokens(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages (`role`, `content`) in the model's own chat template. Raises ConfigError if it has none."""
        ...

    async def propose(self, request: ProposeRequest) -> list[Candidate]:
        """The candidates, in a fixed order, `num_candidates` of them. Raises BackendError if the model cannot answer."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Ask for the value of one prefix after each of several steps: siblings come together and share the prefix.

    The prefix is `prefix_text` / `prefix_ids`; step i continues it with `step_texts[i]` / `step_ids[i]`.
    A value model with the policy's tokenizer reads the ids, any other the texts.
    """

    prefix_text: str
    prefix_ids: tuple[int, ...]
    step_texts: tuple[str, ...]
    step_ids: tuple[tuple[int, ...], ...]
    group: str = ""


@runtime_checkable
class ValueBackend(Protocol):
    """Scores partial solutions."""

    async def score(self, request: ScoreRequest) -> list[float]:
        """One value in [-1, 1] per step. Raises BackendError if the model cannot answer."""
        ...

    async def aclose(self) -> None: ...


class ExecutionVerdict(StrEnum):
    """How one step's program ended."""

    OK = "ok"
    """Ran to its end. The text of its output never matters."""
    ERROR = "error"
    """Raised, did not compile, called exit, or died by its own signal."""
    TIMEOUT = "timeout"
    """Used up its CPU or wall time."""
    MEMORY = "memory"
    """Ran out of the memory it may have."""
    OUTPUT_LIMIT = "output_limit"
    """Wrote more than the hard limit."""
    BLOCKED = "blocked"
    """Tried what the sandbox forbids: files, network, processes, threads."""
    KILLED = "killed"
    """Was killed from outside by the sandbox for another reason, stated in `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """What one step's code did. `stdout` is what this step printed (capped; `truncated_chars` says how much is gone)."""

    verdict: ExecutionVerdict
    stdout: str = ""
    error: str = ""
    """Exception type and last line, one line; empty when ok."""
    truncated_chars: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    replayed_steps: int = 0
    """How many ancestor steps had to be run again because their interpreter was no longer held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Run `code` in the interpreter state that `history` left, and only there.

    `history` is the code of the ancestors from the root on, each of which ran `OK` in this group before (or will be
    run again by replay). `group` names the tree: it decides which shard holds the state, and `release(group)` frees it.
    `keep_state=False`: nothing will ever run after this step (a final code step). `last_child=True`: nothing else will
    run after `history` (the executor may use up that interpreter instead of forking it).
    """

    code: str
    history: tuple[str, ...] = ()
    group: str = ""
    keep_state: bool = True
    last_child: bool = False


@runtime_checkable
class Sandbox(Protocol):
    """Executes steps, isolated from each other and from this machine."""

    async def run(self, request: RunRequest) -> ExecutionResult:
        """Raises SandboxError only if the sandbox itself failed; whatever the program did is a verdict."""
        ...

    def release(self, group: str) -> None:
        """Forget all state of a group (its tree is finished). Unknown groups are fine."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What an answer node is worth: `value` in [-1, 1] is backed up. `verified` is None where nobody knows the truth."""

    value: float
    verified: bool | None
    detail: str = ""


class AnswerJudge(Protocol):
    """Judges answers: with a reference answer in training, never at inference.

    The search cannot see which; so a type that holds no reference answer cannot leak one.
    """

    async def equal(self, answers: Sequence[str]) -> list[int]:
        """Class index of each answer; equal answers share one. Classes are numbered by first appearance."""
        ...

    async def judge(self, answer: str) -> Reward | None:
        """The reward of a final answer, or None to ask the value model for the whole trajectory instead."""
        ...
