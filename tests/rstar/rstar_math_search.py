"""A small search that counts visits and writes its tree as rStar-Math's released code does; steps are made up.

Its rules: an answer's reward goes to every node up to the root; a dead end (code errors, too many steps) gets -1 for
itself alone; with a value model every other new step gets its value for itself alone, once, as its first visit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

CODE_ERRORS = "Too many consecutive steps have code errors."
TOO_MANY_STEPS = "Fail to sove the problem within limited steps."
MAX_DEPTH = 5


@dataclass
class Step:
    """A node of this search."""

    tag: str
    state: dict[str, Any]
    parent: Step | None = None
    children: list[Step] = field(default_factory=list)
    ended: bool = False
    rewards: list[float] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return self.tag.count(".")

    def back_up(self, reward: float) -> None:
        step: Step | None = self
        while step is not None:
            step.rewards.append(reward)
            step = step.parent

    def written(self) -> dict[str, Any]:
        count = len(self.rewards)
        return {
            **self.state,
            "value": self.rewards[0] if count else 0,
            "q_value": sum(self.rewards) / count if count else 0,
            "visit_count": count,
        }


def _state(text: str, observation: str | None = None, final_answer: str = "") -> dict[str, Any]:
    state = {"text": text, "extra_info": "", "action": "", "action_input": "", "final_answer": final_answer}
    if observation is not None:
        state |= {"action": "python_interpreter", "action_input": text, "observation": observation}
    return state


def searched(seed: int, *, scored: bool, num_rollouts: int = 6, answer: int = 12) -> dict[str, Any]:
    """The row that is written for one problem: `question`, `answer`, `rstar`."""
    chance = random.Random(seed)
    question = f"What is 3 * 4, problem {seed}?"
    root = Step("0", {**_state(""), "extra_info": f"question: {question}"})
    steps = [root]
    for _ in range(num_rollouts):
        step = root
        while True:
            if not step.children:
                _expand(step, chance, steps, scored, answer)
            open_ones = [child for child in step.children if not child.ended]
            if not open_ones:
                step.ended = True
                break
            step = chance.choice(open_ones)
    return {
        "index": seed, "question": question, "answer": str(answer), "level": "easy",
        "rstar": {step.tag: step.written() for step in sorted(steps, key=lambda s: (s.depth, s.tag))},
    }  # fmt: skip


def _expand(parent: Step, chance: random.Random, steps: list[Step], scored: bool, answer: int) -> None:
    after_output = "<end_of_output>" in parent.state["text"]
    for number in range(1, chance.randint(2, 12 if parent.depth == 0 else 4)):
        opening = "<code>\n" if parent.depth == 0 else "\n"
        drawn = chance.random()
        step = Step(f"{parent.tag}.{number}", {}, parent)
        if after_output:
            given = chance.choice([answer, 7])
            text = f"\n<answer>The answer is \\boxed{{{given}}}<end_of_answer>"
            step.state, step.ended = _state(text, final_answer=str(given)), True
            step.back_up(chance.choice([0.3, -0.2]) if scored else (1.0 if given == answer else -1.0))
        elif drawn < 0.15:
            observation = "NameError: name 'y' is not defined"
            text = f"{opening}x = y{number}\n<end_of_step><end_of_code>\n<output>{observation}<end_of_output>"
            step.state, step.ended = _state(text, observation, CODE_ERRORS), True
            step.rewards.append(-1)
        elif drawn < 0.5 and parent.depth:
            text = f"{opening}print({number} * x)\n<end_of_code>\n<output>{number}\n2<end_of_output>"
            step.state = _state(text, f"{number}\n2")
        else:
            step.state = _state(f"{opening}x = {number}\n<end_of_step>", "")
        if not step.ended and step.depth > MAX_DEPTH:
            step.state["final_answer"], step.ended = TOO_MANY_STEPS, True
            step.rewards.append(-1)
        elif scored and not step.rewards:
            step.rewards.append(round(chance.uniform(-1, 1), 3))
        parent.children.append(step)
        steps.append(step)
