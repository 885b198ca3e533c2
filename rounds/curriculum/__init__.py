"""The embedded problem set: word and algebra problems of twelve families and three levels, with computed answers.

    from rounds.curriculum import Level, Split, generate
    problems = generate(Split.TRAIN, Level.EASY, 100, seed=0)

See docs/curriculum.md for what the problems look like and how the base model's demonstrations are made from them.
"""

from rounds.curriculum.blocks import IDEAS, Block, CodeStep, Family, Idea
from rounds.curriculum.generator import (
    Exercise,
    Level,
    Split,
    curriculum,
    exercises,
    generate,
    generate_exercises,
    split_of,
)

__all__ = [
    "IDEAS",
    "Block",
    "CodeStep",
    "Exercise",
    "Family",
    "Idea",
    "Level",
    "Split",
    "curriculum",
    "exercises",
    "generate",
    "generate_exercises",
    "split_of",
]
