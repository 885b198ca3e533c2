"""From blocks to problems: three levels, two disjoint splits, any number of distinct problems from one seed.

A problem is a chain of blocks: each builds on the quantity before it, the last one asks. Its level is the chain's
length; its family is that of its last block. Which split a problem belongs to is decided by a hash of its question,
so no seed, count or order can put one question into both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from rounds.curriculum import algebra, numbers, shapes, stories
from rounds.curriculum.blocks import (
    IDEAS,
    MAX_VALUE,
    THINGS,
    Block,
    CodeStep,
    Family,
    Idea,
    Maker,
    Quantity,
    Unfit,
)
from rstar import seeds
from rstar.problems import Problem, normalised_question
from rstar.steps import ANSWER as ANSWER_TAG
from rstar.steps import END_OF_ANSWER, END_OF_CODE, END_OF_STEP, Step, StepKind

FAMILY_MODULES = (stories, algebra, numbers, shapes)
"""The modules whose import fills `IDEAS`."""


class Level(StrEnum):
    """How long the chain is. Code steps include the last one, which prints."""

    EASY = "easy"
    """One block: 2 or 3 code steps."""
    MEDIUM = "medium"
    """Two or three blocks: 3 or 4 code steps."""
    OLYMPIAD = "olympiad"
    """Three blocks or more, of at least three families, one at least of a tricky idea: 5 to 8 code steps."""


class Split(StrEnum):
    """Problems for the rounds, and problems that no round ever sees."""

    TRAIN = "train"
    EVAL = "eval"


EVAL_SHARE = 0.2
"""Share of all questions that the hash puts into the evaluation split."""
NUM_DISTRACTORS = {Level.EASY: (12, 4, 3, 2, 2, 1), Level.MEDIUM: (12, 4, 3, 2, 2, 1), Level.OLYMPIAD: (5, 1)}
"""Weights of 0, 1, 2, ... sentences that do not matter. Short chains have more of them, so that a long question alone
is no sign of a long solution."""

_BLOCKS = {Level.EASY: (1, 1), Level.MEDIUM: (2, 3), Level.OLYMPIAD: (3, 6)}
_CODE_STEPS = {
    Level.EASY: {2: 4, 3: 1},
    Level.MEDIUM: {3: 1, 4: 1},
    Level.OLYMPIAD: {5: 5, 6: 3, 7: 2, 8: 1},
}
"""Weights of the numbers of code steps."""
_DISTRACTORS = (
    "the shop opens at {k}.",
    "it is {k} degrees outside.",
    "there are {k} birds in the tree.",
    "the bus comes in {k} minutes.",
    "the sky is blue.",
    "this is not hard.",
    "page {k} has a hint.",
    "the room has {k} chairs.",
    "it has been {k} days since the last rain.",
    "the music is too loud.",
    "the teacher reads line {k} out loud.",
    "there is a cat on the roof.",
    "the old clock is {k} minutes late.",
    "nobody knows why.",
    "a film about this lasts {k} minutes.",
    "the answer fits on one line.",
)


@dataclass(frozen=True, slots=True)
class Exercise:
    """A problem with its family, the ideas it chains, and the reference way to solve it in code."""

    problem: Problem
    level: Level
    ideas: tuple[Idea, ...]
    blocks: tuple[Block, ...]
    """One per idea."""

    @property
    def family(self) -> Family:
        """What the last block is about."""
        return self.ideas[-1].family

    @property
    def steps(self) -> tuple[CodeStep, ...]:
        """The steps that compute; printing the result is one more."""
        return tuple(step for block in self.blocks for step in block.steps)

    def demonstration(self) -> list[Step]:
        """The reference solution in the step format."""
        return solution_steps(self.steps, self.problem.answer)


def solution_steps(steps: Sequence[CodeStep], answer: str) -> list[Step]:
    """Render code steps, the step that prints what the last one assigned, and the answer sentence."""
    rendered = [Step(StepKind.CODE, f"# {step.comment}\n{step.code}\n{END_OF_STEP}") for step in steps]
    rendered.append(
        Step(StepKind.FINAL_CODE, f"# print the answer\nprint({steps[-1].variable})\n{END_OF_CODE}")
    )
    rendered.append(Step(StepKind.ANSWER, f"{ANSWER_TAG}The answer is \\boxed{{{answer}}}{END_OF_ANSWER}"))
    return rendered


def split_of(question: str) -> Split:
    """The split that a question belongs to; equal normalised questions share one."""
    digest = hashlib.blake2b(normalised_question(question).encode(), digest_size=8).digest()
    return Split.EVAL if int.from_bytes(digest, "big") < EVAL_SHARE * 2**64 else Split.TRAIN


def exercises(split: Split, level: Level, seed: int) -> Iterator[Exercise]:
    """An endless stream of exercises with distinct normalised questions; a longer stream begins like a shorter one."""
    random = seeds.rng(seed, "curriculum", split, level)
    seen: set[str] = set()
    while True:
        exercise = _draw(random, level)
        question = normalised_question(exercise.problem.question)
        if question in seen or split_of(question) is not split:
            continue
        seen.add(question)
        yield exercise


def generate(split: Split | str, level: Level | str, count: int, seed: int) -> list[Problem]:
    """`count` distinct problems. Their `source` is `curriculum/<family>`; their ids name split, level, seed and place.

    Raises ValueError for an unknown split or level, or a negative count.
    """
    return [exercise.problem for exercise in generate_exercises(split, level, count, seed)]


def generate_exercises(split: Split | str, level: Level | str, count: int, seed: int) -> list[Exercise]:
    """As `generate`, with families and reference solutions."""
    if count < 0:
        raise ValueError(f"count={count}: must not be negative")
    split, level = Split(split), Level(level)
    stream = exercises(split, level, seed)
    made = []
    for place in range(count):
        drawn = next(stream)
        drawn = replace(drawn, problem=replace(drawn.problem, id=f"{split}-{level}-{seed}-{place}"))
        made.append(drawn)
    return made


def curriculum(
    split: Split | str, counts: Mapping[Level, int] | Mapping[str, int], seed: int
) -> list[Problem]:
    """Problems of several levels, `counts` of each, easy ones first."""
    return [problem for level, count in counts.items() for problem in generate(split, level, count, seed)]


def _draw(random: Random, level: Level) -> Exercise:
    """One exercise of the level; tries until the drawn ideas fit together."""
    weights = _CODE_STEPS[level]
    num_code_steps = random.choices(list(weights), weights=list(weights.values()))[0]
    while True:
        drawn = _chain(random, random.randint(*_BLOCKS[level]))
        if drawn is None:
            continue
        ideas, chain = drawn
        if sum(len(block.steps) for block in chain) + 1 != num_code_steps:
            continue
        if level is Level.OLYMPIAD and not _is_olympiad(ideas):
            continue
        texts = [block.text for block in chain]
        weights_of_counts = NUM_DISTRACTORS[level]
        for _ in range(random.choices(range(len(weights_of_counts)), weights=weights_of_counts)[0]):
            distractor = random.choice(_DISTRACTORS).format(k=random.randint(2, 40))
            texts.insert(random.randrange(len(texts)), distractor)
        problem = Problem(
            id="",
            question=" ".join(texts),
            answer=str(chain[-1].value),
            level=level.value,
            source=f"curriculum/{ideas[-1].family.value}",
        )
        return Exercise(problem, level, tuple(ideas), tuple(chain))


def _is_olympiad(ideas: Sequence[Idea]) -> bool:
    """Whether a long chain is hard enough for the level: it mixes families, and one of its ideas is tricky."""
    return len({idea.family for idea in ideas}) >= 3 and any(idea.tricky for idea in ideas)


def _chain(random: Random, length: int) -> tuple[list[Idea], list[Block]] | None:
    """Ideas and blocks of a chain, or None if it got stuck: twenty ideas in a row did not fit."""
    things = random.choice(THINGS)
    used: set[str] = set()
    given: Quantity | None = None
    ideas: list[Idea] = []
    blocks: list[Block] = []
    while len(blocks) < length:
        asked = len(blocks) == length - 1
        for _ in range(20):
            family = random.choice(tuple(Family))
            drawn = random.choice([idea for idea in IDEAS if idea.family is family])
            if drawn.last_only and not asked:
                continue
            try:
                names = set(used)
                block = drawn.build(Maker(random, names, things, given, asked=asked))
            except Unfit:
                continue
            if block.value > MAX_VALUE or block.value <= 0:
                continue
            used = names
            break
        else:
            return None
        ideas.append(drawn)
        blocks.append(block)
        if not asked:
            given = block.quantity()
    return ideas, blocks
