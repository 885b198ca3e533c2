"""The step format: code-augmented chain of thought, parsed and rendered (rStar-Math, section 3.2).

    <code>
    # Step 1: what is done and why, as Python comments
    x = 16 * 3
    <end_of_step>
    # Now print the final answer
    print(x)
    <end_of_code>
    <output>48<end_of_output>
    <answer>The answer is \\boxed{48}<end_of_answer>

A `Step` is what the policy samples at once: text up to and including one of three closing tags. The opening
`<code>`, the line breaks between steps and the output block are the engine's, never the policy's.
Structure comes from the tags alone: the words "boxed", "error" or "answer" in a comment mean nothing.
What this file does not cover: how a prefix becomes a prompt or token ids (`prompts`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rstar.errors import FormatError

CODE = "<code>"
END_OF_STEP = "<end_of_step>"
END_OF_CODE = "<end_of_code>"
OUTPUT = "<output>"
END_OF_OUTPUT = "<end_of_output>"
ANSWER = "<answer>"
END_OF_ANSWER = "<end_of_answer>"

TAGS = (CODE, END_OF_STEP, END_OF_CODE, OUTPUT, END_OF_OUTPUT, ANSWER, END_OF_ANSWER)
STEP_STOPS = (END_OF_STEP, END_OF_CODE, END_OF_ANSWER, OUTPUT)
"""Where sampling stops: the three closing tags, and the opening of an output block, which only the engine may write."""


class StepKind(StrEnum):
    """What a step is, by its closing tag."""

    CODE = "code"
    """More code follows; closed by `<end_of_step>`."""
    FINAL_CODE = "final_code"
    """The last code step; closed by `<end_of_code>`; the program's output follows."""
    ANSWER = "answer"
    """`<answer>` … `<end_of_answer>`, after the output."""


_KIND_BY_CLOSING_TAG = {
    END_OF_STEP: StepKind.CODE,
    END_OF_CODE: StepKind.FINAL_CODE,
    END_OF_ANSWER: StepKind.ANSWER,
}
_CLOSING_TAG = {kind: tag for tag, kind in _KIND_BY_CLOSING_TAG.items()}
_BOXED = r"\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of reasoning. `text` ends in the closing tag of its `kind` and holds no other tag
    (an answer begins with `<answer>`, after optional white space)."""

    kind: StepKind
    text: str

    @property
    def code(self) -> str:
        """The Python of a code step, comments included; empty for an answer."""
        return "" if self.kind is StepKind.ANSWER else self.text.removesuffix(_CLOSING_TAG[self.kind])

    @property
    def answer(self) -> str | None:
        """The content of the last `\\boxed{…}` of an answer step, braces balanced; None for code or without one."""
        return boxed(self.text) if self.kind is StepKind.ANSWER else None


def parse_step(text: str, *, after: StepKind | None) -> Step:
    """Read one sampled completion as the step that follows a step of kind `after` (None: the question).

    Raises FormatError with the reason when it is not one: no closing tag, a second tag inside, an answer before the
    code has ended, code after the code has ended, an output block written by the policy, an answer without `\\boxed`.
    """
    if after is StepKind.ANSWER:
        raise FormatError("nothing follows an answer")
    if OUTPUT in text or END_OF_OUTPUT in text:
        raise FormatError(f"the policy wrote its own {OUTPUT} block")
    kind = next((kind for tag, kind in _KIND_BY_CLOSING_TAG.items() if text.endswith(tag)), None)
    if kind is None:
        raise FormatError("no closing tag at the end of the step")
    body = text.removesuffix(_CLOSING_TAG[kind])
    if kind is StepKind.ANSWER:
        if after is not StepKind.FINAL_CODE:
            raise FormatError(f"an answer before {END_OF_CODE}")
        if not body.lstrip().startswith(ANSWER):
            raise FormatError(f"an answer step begins with {ANSWER}")
        body = body.lstrip().removeprefix(ANSWER)
    elif after is StepKind.FINAL_CODE:
        raise FormatError(f"code after {END_OF_CODE}")
    if (tag := next((tag for tag in TAGS if tag in body), None)) is not None:
        raise FormatError(f"a stray {tag} inside a step")
    step = Step(kind, text)
    if kind is StepKind.ANSWER and not step.answer:
        raise FormatError(r"an answer without \boxed{…}")
    return step


def without_tags(text: str) -> str:
    """A step for people to read."""
    for tag in TAGS:
        text = text.replace(tag, "")
    return text.strip()


def boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}` in `text` with balanced braces, stripped; None if there is none. Escaped
    braces are characters, not groups."""
    end = len(text)
    while (start := text.rfind(_BOXED, 0, end)) >= 0:
        level = 0
        for found in _BRACE.finditer(text, start + len(_BOXED) - 1):
            level += {"{": 1, "}": -1}.get(found.group(), 0)
            if level == 0:
                return text[start + len(_BOXED) : found.start()].strip()
        end = start
    return None


def render_output(stdout: str) -> str:
    """The engine's block after the last code step: the whole program's stdout between output tags, on a line of its own.

    Tags inside the output are broken up, so that a program cannot close the block or forge an answer.
    """
    safe = stdout.rstrip("\n")
    for tag in TAGS:
        safe = safe.replace(tag, f"< {tag[1:]}")
    return f"{OUTPUT}{safe}{END_OF_OUTPUT}"


def after_step(kind: StepKind, stdout: str = "") -> str:
    """What the engine writes after a step of `kind`: a line break, and after the last code step also the output
    of the whole program. This is the only place that decides it; search, training sets and scoring all call it."""
    match kind:
        case StepKind.CODE:
            return "\n"
        case StepKind.FINAL_CODE:
            return f"\n{render_output(stdout)}\n"
        case StepKind.ANSWER:
            return ""


@dataclass(frozen=True, slots=True)
class Solution:
    """A whole solution as text: its steps, and the output that the program printed (None: it has no output block)."""

    steps: tuple[Step, ...]
    output: str | None = None


def render_solution(solution: Solution) -> str:
    """The canonical text of a solution, from `<code>` to its last tag. Inverse of `parse_solution`."""
    parts = [f"{CODE}\n"]
    for step in solution.steps:
        no_output = step.kind is StepKind.FINAL_CODE and solution.output is None
        parts += (step.text, "\n" if no_output else after_step(step.kind, solution.output or ""))
    return "".join(parts)


def parse_solution(text: str) -> Solution:
    """Read a solution text, of this project or of rStar-Math's published data (which puts blank lines and the opening
    tag where it likes: code on the `<code>` line is kept).

    Raises FormatError naming the step that is wrong.
    """
    body = text.strip().removeprefix(CODE).removeprefix("\n")
    steps: list[Step] = []
    output: str | None = None
    while body.strip():
        ends = [(at + len(tag), tag) for tag in _KIND_BY_CLOSING_TAG if (at := body.find(tag)) >= 0]
        if not ends:
            raise FormatError(f"step {len(steps) + 1}: no closing tag in {body.strip()[:40]!r}")
        end, _ = min(ends)
        try:
            step = parse_step(body[:end], after=steps[-1].kind if steps else None)
        except FormatError as error:
            raise FormatError(f"step {len(steps) + 1}: {error}") from None
        steps.append(step)
        body = body[end:].removeprefix("\n")
        if step.kind is StepKind.FINAL_CODE and body.lstrip().startswith(OUTPUT):
            block, closed, rest = body.lstrip().removeprefix(OUTPUT).partition(END_OF_OUTPUT)
            if not closed:
                raise FormatError(f"step {len(steps)}: {OUTPUT} without {END_OF_OUTPUT}")
            output, body = block, rest.removeprefix("\n")
    return Solution(tuple(steps), output)


def codes(steps: Sequence[Step]) -> tuple[str, ...]:
    """The code of each code step, in order: the history that a sandbox replays."""
    return tuple(step.code for step in steps if step.kind is not StepKind.ANSWER)
