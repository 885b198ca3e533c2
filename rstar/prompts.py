"""From a question and the steps so far to the text and token ids that a model reads: one renderer for all.

Search, supervised fine-tuning, preference training and scoring build their inputs here, so training and inference
agree token for token. A prefix is a list of `Segment`s that only ever grows by appending: the engine's (prompt,
separators, program output) and the policy's (the steps, with the very ids it sampled). The loss mask falls out of
that: 1 where the policy wrote, 0 elsewhere.

Other models' tags, templates and few-shot demonstrations are data of a `PromptFormat`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from rstar.demonstrations import DEMONSTRATIONS, Demonstration
from rstar.steps import (
    ANSWER,
    CODE,
    END_OF_ANSWER,
    END_OF_CODE,
    END_OF_OUTPUT,
    END_OF_STEP,
    OUTPUT,
    STEP_STOPS,
    StepKind,
    after_step,
)

USER = "<|user|>"
ASSISTANT = "<|assistant|>"

Encode = Callable[[str], Sequence[int]]
RenderChat = Callable[[Sequence[dict[str, str]]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """How a question becomes a prompt for one family of models.

    `question_template` and `demonstration_template` are `str.format` texts with `{question}` (and `{solution}`).
    The prompt is instructions, demonstrations, question, in this order (constant text first: prefix caches share it),
    and ends right before the first step. With `chat_template` the text before `solution_start` goes to the model's
    own chat template as a system and a user message, and `solution_start` begins the assistant's turn.
    """

    name: str
    question_template: str = f"{USER}\n{{question}}\n{ASSISTANT}\n"
    demonstration_template: str = f"{USER}\n{{question}}\n{ASSISTANT}\n{{solution}}\n\n"
    solution_start: str = f"{CODE}\n"
    instructions: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    chat_template: bool = False
    stop: tuple[str, ...] = STEP_STOPS


BARE = PromptFormat(name="bare")
"""For models fine-tuned on the step format, the embedded model among them."""

RSTAR = PromptFormat(
    name="rstar",
    question_template=(
        "<|user|>:\n{question}\n<|assistant|>: Let's think step by step and solve the problem with code."
    ),
    demonstration_template=(
        "<|user|>:\n{question}\n<|assistant|>: Let's think step by step and solve the problem with code."
        "{solution}\n\n"
    ),
)
"""The prompt of rStar-Math's published training data."""

_TASK = f"""You solve mathematics problems step by step in Python.

A solution begins with {CODE}. Each step is a comment that says what is done and why, then the code that does it, then \
{END_OF_STEP} on a line of its own. All steps together are one program: later steps use the variables of earlier ones. The \
last step prints the final answer, exactly, and ends in {END_OF_CODE} instead. Then the program's output is given to you between \
{OUTPUT} and {END_OF_OUTPUT}; never write it yourself. Last comes one sentence with the final answer in \\boxed{{}}, between \
{ANSWER} and {END_OF_ANSWER}.
"""

FEW_SHOT = PromptFormat(
    name="few-shot",
    instructions=f"{_TASK}\n",
    question_template="Problem:\n{question}\n\nSolution:\n",
    demonstration_template="Problem:\n{question}\n\nSolution:\n{solution}\n\n",
    demonstrations=DEMONSTRATIONS,
)
"""For base models that were never trained on the step format."""

FEW_SHOT_CHAT = PromptFormat(
    name="few-shot-chat",
    instructions=_TASK,
    question_template="Now solve this problem in the same format.\n\nProblem:\n{question}",
    demonstration_template="Problem:\n{question}\n\nSolution:\n{solution}\n\n",
    demonstrations=DEMONSTRATIONS,
    chat_template=True,
)
"""For instruct and coder models: the paper's bootstrap generator (section 4.1)."""

FORMATS = {format.name: format for format in (BARE, RSTAR, FEW_SHOT, FEW_SHOT_CHAT)}


def render_prompt(format: PromptFormat, question: str, render_chat: RenderChat | None = None) -> str:
    """Everything the model reads before the first step. A chat format needs the back-end's `render_chat`."""
    demonstrations = "".join(
        format.demonstration_template.format(question=shown.question, solution=shown.solution)
        for shown in format.demonstrations
    )
    asked = format.question_template.format(question=question)
    if not format.chat_template:
        return f"{format.instructions}{demonstrations}{asked}{format.solution_start}"
    if render_chat is None:
        raise ValueError(f"prompt format {format.name!r} needs a model with a chat template")
    system = [{"role": "system", "content": format.instructions}] if format.instructions else []
    return (
        render_chat([*system, {"role": "user", "content": f"{demonstrations}{asked}"}])
        + format.solution_start
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text with its token ids. `from_policy`: the policy sampled these very ids."""

    text: str
    token_ids: tuple[int, ...]
    from_policy: bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands before the next step. Immutable; `then` appends."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(segment.token_ids for segment in self.segments))

    def __len__(self) -> int:
        """Number of tokens."""
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def loss_mask(self) -> tuple[int, ...]:
        """1 for each token that the policy wrote, 0 for the engine's; as long as `token_ids`."""
        return tuple(int(segment.from_policy) for segment in self.segments for _ in segment.token_ids)

    def then_step(
        self, text: str, token_ids: Sequence[int], kind: StepKind, stdout: str, encode: Encode
    ) -> Prefix:
        """This prefix, a step as the policy sampled it, and what the engine writes after it."""
        step = Segment(text, tuple(token_ids), from_policy=True)
        glue = after_step(kind, stdout)
        return Prefix((*self.segments, step, *_engine(glue, encode)))


def start(prompt: str, encode: Encode) -> Prefix:
    """The prefix of a root: the prompt alone."""
    return Prefix(_engine(prompt, encode))


def _engine(text: str, encode: Encode) -> tuple[Segment, ...]:
    return (Segment(text, tuple(encode(text)), from_policy=False),) if text else ()
