"""Lessons for the base model: easy-leaning and wrong on purpose, with stated probabilities.

The base model must be imperfect in ways that search and verification can repair, so its teacher errs like a
beginner: it holds misconceptions about some ideas, slips on numbers, stops early, and breaks off where a solution gets
long. Every round after that trains on verified solutions only, never on these.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from random import Random

from rounds.curriculum.blocks import CodeStep
from rounds.curriculum.generator import Exercise, Level, Split, exercises, solution_steps
from rstar import seeds
from rstar.steps import Solution, codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Probabilities of a teacher's errors. The first three are per step, the others per lesson."""

    tricky_misconception: float
    """A step of a tricky idea is done wrong in the usual way."""
    misconception: float
    """The same for the other ideas."""
    slip: float
    """A number in the code is replaced by another one."""
    stop: float
    """The lesson prints an intermediate result (of those with two steps or more)."""
    swap: float
    """Two steps change places (kept only if the program still runs)."""


NOISE: Mapping[Level, Noise] = {
    Level.EASY: Noise(tricky_misconception=0.75, misconception=0.06, slip=0.02, stop=0.05, swap=0.02),
    Level.MEDIUM: Noise(tricky_misconception=0.75, misconception=0.08, slip=0.02, stop=0.1, swap=0.02),
    Level.OLYMPIAD: Noise(tricky_misconception=0.8, misconception=0.3, slip=0.03, stop=0.0, swap=0.0),
}
"""What is long confuses the teacher: in olympiad problems it errs on ideas that it knows elsewhere. It shows no end of
them, so it cannot stop early there."""
SHARES: Mapping[Level, float] = {Level.EASY: 0.55, Level.MEDIUM: 0.38, Level.OLYMPIAD: 0.07}
"""How many lessons are about which level."""
SHOWN_STEPS = 4
"""Of an olympiad problem a lesson shows so many first steps and breaks off: how to begin, never how to end. So no lesson
has an olympiad's length, and yet a policy has seen that a longer question goes on."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher wrote: a question and a solution with the output that its program really has, or the first
    steps of one, without output."""

    question: str
    solution: Solution


def lessons(seed: int) -> Iterator[Lesson]:
    """An endless stream of lessons on training-split exercises. Programs that raise are left out."""
    random = seeds.rng(seed, "lessons")
    streams = {level: exercises(Split.TRAIN, level, seeds.derive(seed, "lessons", level)) for level in Level}
    while True:
        level = random.choices(list(SHARES), weights=list(SHARES.values()))[0]
        exercise = next(streams[level])
        if level is Level.OLYMPIAD:
            yield begin(exercise, NOISE[Level.OLYMPIAD], random)
        elif (lesson := teach(exercise, NOISE[level], random)) is not None:
            yield lesson


def begin(exercise: Exercise, noise: Noise, random: Random) -> Lesson:
    """The first `SHOWN_STEPS` steps of the noisy teacher's solution, and no more."""
    steps = solution_steps(_noisy_steps(exercise, noise, random), "")
    return Lesson(exercise.problem.question, Solution(tuple(steps[:SHOWN_STEPS])))


def teach(exercise: Exercise, noise: Noise, random: Random) -> Lesson | None:
    """The exercise solved by the noisy teacher, or None if the resulting program raises or prints nothing."""
    steps = _noisy_steps(exercise, noise, random)
    if len(steps) > 1 and random.random() < noise.stop:
        steps = steps[: random.randrange(1, len(steps))]
    if len(steps) > 1 and random.random() < noise.swap:
        at = random.randrange(len(steps) - 1)
        steps[at : at + 2] = reversed(steps[at : at + 2])
    output = run(codes(solution_steps(steps, "")))
    if output is None:
        return None
    answer = output.strip()
    return Lesson(exercise.problem.question, Solution(tuple(solution_steps(steps, answer)), output))


def run(programs: Sequence[str]) -> str | None:
    """What the curriculum's own code prints, or None if it raises. Not a sandbox: for code made in this package."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            exec("\n".join(programs), {})
    except (ArithmeticError, NameError, ValueError):
        return None
    return printed.getvalue()


def _noisy_steps(exercise: Exercise, noise: Noise, random: Random) -> list[CodeStep]:
    """Every step of the exercise, some with a misconception or a slip."""
    steps: list[CodeStep] = []
    for idea, block in zip(exercise.ideas, exercise.blocks, strict=True):
        rate = noise.tricky_misconception if idea.tricky else noise.misconception
        for step in block.steps:
            code = step.misconception if step.misconception and random.random() < rate else step.code
            if random.random() < noise.slip:
                code = _slip(code, random)
            steps.append(replace(step, code=code))
    return steps


def _slip(code: str, random: Random) -> str:
    """One number of the code changed: another number of the same length."""
    numbers = list(re.finditer(r"\d+", code))
    if not numbers:
        return code
    at = random.choice(numbers)
    digits = "".join(random.choice("123456789") for _ in at.group())
    return code[: at.start()] + digits + code[at.end() :]
