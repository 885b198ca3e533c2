"""From a round's trees to the examples that its policy is trained on: a pure function (rStar-Math, section 3.4).

Of each problem the verified trajectories with the highest mean Q-value are taken. An example is the very token
sequence of the search: the prompt, the steps with the ids that the policy sampled, and what the engine wrote between
them; its loss mask is 1 on the policy's own tokens only. No end-of-text token follows: a solution ends with the
policy's `<end_of_answer>`, which is where sampling stops, so nothing after it is ever asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policy.config import Choice, SFTSetConfig
from rstar.problems import Problem
from rstar.prompts import Encode, PromptFormat, RenderChat, render_prompt
from rstar.seeds import rng
from rstar.trajectories import Trajectory, prefix_of, trajectories
from rstar.tree import TerminalReason, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTExample:
    """One supervised example: a problem and a correct solution of it as one token sequence.

    `loss_mask` is as long as `token_ids`: 1 where the policy wrote the token, 0 for the prompt, the separators and the
    program's output. Its first entry is 0 (a prompt comes first), so packed examples never predict one another.
    """

    problem_id: str
    tree_index: int
    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    text: str
    """Prompt and solution, as `token_ids` decodes."""
    mean_q: float
    answer: str

    def __post_init__(self) -> None:
        assert len(self.loss_mask) == len(self.token_ids), "one mask entry per token"
        assert any(self.loss_mask), "the policy wrote something"
        assert self.loss_mask[0] == 0, "an example begins with a prompt"

    @property
    def num_policy_tokens(self) -> int:
        return sum(self.loss_mask)


class DropReason(StrEnum):
    """Why a problem has no example, or a correct trajectory is none."""

    UNSOLVED = "unsolved"
    """Problem: no correct trajectory."""
    LABEL_NOISE = "label_noise"
    """Problem of a noisy source: too few of its answers are correct to trust its reference answer."""
    NEAR_DUPLICATE = "near_duplicate"
    """Trajectory: nearly the same steps as one already taken."""
    TOO_LONG = "too_long"
    """Trajectory: more tokens than an example may have."""
    SURPLUS = "surplus"
    """Trajectory: its problem already has as many examples as it may."""


@dataclass(slots=True, kw_only=True)
class LevelCounts:
    """What became of the problems and correct trajectories of one level."""

    num_problems: int = 0
    num_correct_trajectories: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    num_policy_tokens: int = 0
    dropped: Counter[DropReason] = dataclasses.field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTSet:
    """Examples, sorted by problem id and then best first, and counts by level (in the order of the level names)."""

    examples: tuple[SFTExample, ...]
    counts: Mapping[str, LevelCounts]


def sft_set(
    trees: Iterable[Tree],
    problems: Iterable[Problem],
    *,
    config: SFTSetConfig,
    format: PromptFormat,
    encode: Encode,
    max_output_chars: int,
    seed: int,
    render_chat: RenderChat | None = None,
) -> SFTSet:
    """Draw the examples of `trees`, whatever order they come in; several trees of one problem compete together.

    `problems` says level and source of each tree's problem; those without a tree count as unsolved. `encode` is the
    tokenizer of the base model and `max_output_chars` the search's, so that ids equal those of the search. `seed` is
    used by `Choice.RANDOM` only. Raises KeyError for a tree whose problem is not among `problems`.
    """
    by_id = {problem.id: problem for problem in problems}
    trees_of: dict[str, list[Tree]] = defaultdict(list)
    for tree in trees:
        trees_of[by_id[tree.problem_id].id].append(tree)
    counts = {level: LevelCounts() for level in sorted({problem.level for problem in by_id.values()})}
    examples: list[SFTExample] = []
    for problem_id in sorted(by_id):
        problem = by_id[problem_id]
        level = counts[problem.level]
        level.num_problems += 1
        own = {
            tree.tree_index: tree for tree in sorted(trees_of[problem_id], key=lambda tree: tree.tree_index)
        }
        assert len(own) == len(trees_of[problem_id]), f"two trees of {problem_id} have one index"
        correct = [t for tree in own.values() for t in trajectories(tree) if t.verified]
        level.num_correct_trajectories += len(correct)
        if not correct:
            level.dropped[DropReason.UNSOLVED] += 1
            continue
        noisy = problem.source in config.noisy_sources
        if noisy and correct_share(own.values()) < config.min_correct_share:
            level.dropped[DropReason.LABEL_NOISE] += 1
            continue
        taken: list[tuple[str, ...]] = []
        for trajectory in ranked(correct, config.choice, seed=seed):
            if len(taken) == config.num_per_problem:
                level.dropped[DropReason.SURPLUS] += 1
                continue
            tree = own[trajectory.tree_index]
            words = normalised_words(tree, trajectory)
            if any(similarity(words, other) > config.max_similarity or words == other for other in taken):
                level.dropped[DropReason.NEAR_DUPLICATE] += 1
                continue
            prompt = render_prompt(format, problem.question, render_chat)
            if config.retokenize:
                tree = retokenized(tree, trajectory.node_ids, encode)
            example = _example(tree, trajectory, prompt, encode, max_output_chars)
            if len(example.token_ids) > config.max_tokens:
                level.dropped[DropReason.TOO_LONG] += 1
                continue
            taken.append(words)
            examples.append(example)
            level.num_examples += 1
            level.num_tokens += len(example.token_ids)
            level.num_policy_tokens += example.num_policy_tokens
    return SFTSet(examples=tuple(examples), counts=counts)


def ranked(correct: Sequence[Trajectory], choice: Choice, *, seed: int) -> list[Trajectory]:
    """One problem's correct trajectories in the order in which they are taken; ties go to the one found first."""
    found = sorted(correct, key=lambda t: (t.tree_index, t.node_ids[-1]))
    match choice:
        case Choice.TOP_MEAN_Q:
            return sorted(found, key=lambda t: -t.mean_q)
        case Choice.RANDOM:
            rng(seed, "sft_set", found[0].problem_id).shuffle(found)
            return found


def correct_share(trees: Iterable[Tree]) -> float:
    """Share of the sampled answers of one problem that are correct, in [0, 1]; equal siblings count as often as they
    were sampled. Raises ZeroDivisionError when no answer was sampled."""
    num_correct = num_answers = 0
    for tree in trees:
        for node_id in tree.terminal_nodes():
            node = tree.nodes[node_id]
            if node.terminal is TerminalReason.ANSWERED:
                num_answers += node.multiplicity
                num_correct += node.multiplicity * bool(node.verified)
    return num_correct / num_answers


def normalised_words(tree: Tree, trajectory: Trajectory) -> tuple[str, ...]:
    """The words of a trajectory's steps, without case and layout."""
    text = " ".join(tree.nodes[node_id].text for node_id in trajectory.node_ids)
    return tuple(text.casefold().split())


def similarity(words: Sequence[str], others: Sequence[str]) -> float:
    """Share of equal words in order, 2 * equal / all, in [0, 1]; 1 if and only if they are the same."""
    return difflib.SequenceMatcher(None, words, others, autojunk=False).ratio()


def retokenized(tree: Tree, node_ids: Iterable[int], encode: Encode) -> Tree:
    """The tree with the text of these nodes encoded anew; the given tree stays as it is."""
    nodes = list(tree.nodes)
    for node_id in node_ids:
        nodes[node_id] = dataclasses.replace(nodes[node_id], token_ids=tuple(encode(nodes[node_id].text)))
    return dataclasses.replace(tree, nodes=nodes)


def _example(
    tree: Tree, trajectory: Trajectory, prompt: str, encode: Encode, max_output_chars: int
) -> SFTExample:
    assert all(tree.nodes[node_id].live for node_id in trajectory.node_ids), (
        "a failed step is on no trajectory"
    )
    answer_id = trajectory.node_ids[-1]
    whole = prefix_of(tree, answer_id, prompt=prompt, encode=encode, max_output_chars=max_output_chars)
    return SFTExample(
        problem_id=trajectory.problem_id,
        tree_index=trajectory.tree_index,
        token_ids=whole.token_ids,
        loss_mask=whole.loss_mask,
        text=whole.text,
        mean_q=trajectory.mean_q,
        answer=trajectory.answer,
    )
