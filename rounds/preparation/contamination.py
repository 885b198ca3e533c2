"""Does a training problem give away an evaluation problem? Equal normalised text, or a run of n equal words.

The rule of GPT-3 (arXiv:2005.14165, appendix C). Evaluation questions of fewer than n words can only be met as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rounds.preparation.text import normalised, words

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a question shares with an evaluation problem. `gram`: the words; empty where the whole text is equal."""

    evaluation_id: str
    gram: Gram = ()

    def __str__(self) -> str:
        if not self.gram:
            return f"asks the same as {self.evaluation_id}"
        return f"shares {len(self.gram)} words with {self.evaluation_id}: {' '.join(self.gram)}"


class EvaluationIndex:
    """The texts and n-grams of evaluation questions, given as (id, question); of two problems with the same the first is
    named. Memory: about 0.5 KB per word of the questions."""

    def __init__(self, questions: Iterable[tuple[str, str]], *, ngram: int) -> None:
        self.ngram = ngram
        self._texts: dict[str, str] = {}
        self._grams: dict[Gram, str] = {}
        for problem_id, question in questions:
            self._texts.setdefault(normalised(question), problem_id)
            for gram in ngrams(words(question), ngram):
                self._grams.setdefault(gram, problem_id)

    def equal(self, normal: str) -> Overlap | None:
        """The evaluation problem with this normalised text."""
        found = self._texts.get(normal)
        return None if found is None else Overlap(found)

    def shared(self, question: str) -> list[Overlap]:
        """Every n-gram that the question shares with evaluation problems, in its order, repetitions included."""
        of = words(question)
        if self._grams.keys().isdisjoint(ngrams(of, self.ngram)):  # one pass in C; almost always the last
            return []
        return [Overlap(self._grams[gram], gram) for gram in ngrams(of, self.ngram) if gram in self._grams]


def ngrams(of: Sequence[str], n: int) -> Iterator[Gram]:
    """Every run of n words, in order."""
    return zip(*(of[start:] for start in range(n)), strict=False)
