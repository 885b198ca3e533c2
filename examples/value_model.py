"""Write a value model and guide a search by it; compare with a search without.

    python -m examples.value_model

Shows: that a value model is any object with `score` and `aclose`; what a request holds; how it is given to a solver; and
how the two searches are compared fairly, on the same questions with the same budget of rollouts.

The policy is scripted and careless: now and then a step does another operation than the question asks for. The value model reads
question and code side by side, so it sees that at once, long before an answer shows it.
"""

from __future__ import annotations

import re

from rstar import SearchConfig, Solver
from rstar.backends.scripted import ChainWorld
from rstar.protocols import ScoreRequest

WORLD = ChainWorld(num_operations=3, slip=0.3)
NUM_PROBLEMS = 12
SEARCH = SearchConfig(num_rollouts=4, num_candidates=4)
_SYMBOLS = {"add": "+", "subtract": "-", "times": "*"}
_ASKED = re.compile(r"Then (\w+) (\d+)")
_DONE = re.compile(r"^x = x (.) (\d+)$", re.MULTILINE)


class DoesWhatIsAsked:
    """Scores a partial solution 1 if its operations are those of the question so far, and -1 if one is not."""

    async def score(self, request: ScoreRequest) -> list[float]:
        """One score in [-1, 1] per step: siblings come together and share the prefix."""
        return [self._score(request.prefix_text + step) for step in request.step_texts]

    async def aclose(self) -> None:
        """Nothing is held."""

    def _score(self, text: str) -> float:
        asked = [(_SYMBOLS[word], operand) for word, operand in _ASKED.findall(text)]
        done = _DONE.findall(text)
        return 1.0 if done == asked[: len(done)] else -1.0


def accuracy(ppm: DoesWhatIsAsked | None) -> float:
    """Share of the questions that a search with this value model answers right, in [0, 1]."""
    problems = WORLD.problems(NUM_PROBLEMS)
    with Solver(WORLD.policy(), ppm=ppm, search=SEARCH) as solver:
        found = solver.solve_many([problem.question for problem in problems], progress=False)
    right = [one.answer == problem.answer for one, problem in zip(found, problems, strict=True)]
    return sum(right) / len(right)


def main() -> None:
    """Both searches."""
    print(
        f"{NUM_PROBLEMS} questions, {SEARCH.num_rollouts} rollouts of {SEARCH.num_candidates} candidates each"
    )
    print(f"without a value model  {accuracy(None):.0%}")
    print(f"with one               {accuracy(DoesWhatIsAsked()):.0%}")


if __name__ == "__main__":
    main()
