"""Trees as a search would leave them, without a search: for the store's benchmark and tests.

Rollouts walk down by UCT, expand with arithmetic word-problem steps (names and numbers vary, siblings differ slightly,
some repeat, some fail to run), and back their terminal value up, so every tree passes `check_invariants`.
What this file does not do: run code. Outputs and errors are made up; answers are right as often as `skill` says.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

from rstar.protocols import ExecutionVerdict
from rstar.seeds import rng
from rstar.steps import ANSWER, END_OF_ANSWER, END_OF_CODE, END_OF_STEP, StepKind
from rstar.tree import ROOT, Node, TerminalReason, Tree

NAMES = (
    "Ada",
    "Ben",
    "Chen",
    "Dina",
    "Emil",
    "Fatma",
    "Goran",
    "Hana",
    "Ivan",
    "Jia",
    "Kofi",
    "Lena",
    "Mei",
    "Nils",
)
THINGS = (
    "apples",
    "tickets",
    "marbles",
    "pages",
    "litres of paint",
    "stamps",
    "chairs",
    "eggs",
    "coins",
    "kilometres",
)
PLACES = (
    "on Monday",
    "at the market",
    "in the first week",
    "for the school",
    "from the shop",
    "in each box",
    "per day",
)
VARIABLES = (
    "total",
    "remaining",
    "cost",
    "bought",
    "sold",
    "share",
    "rate",
    "distance",
    "left_over",
    "count",
)
OPERATIONS = (
    ("gives away {b} of the {a} {things} {place}", "subtract", "{a} - {b}"),
    ("gets {b} more {things} {place}", "add", "{before} + {b}"),
    ("has {b} times as many {things} as before {place}", "multiply by {b}", "{before} * {b}"),
    ("splits the {things} into {b} equal parts {place}", "divide by {b}", "{before} // {b}"),
    ("loses {b} percent of the {things} {place}", "take {b}% off", "{before} * (100 - {b}) // 100"),
)
OPENINGS = (
    "# Step {n}: ",
    "# ",
    "# Next, ",
    "# Now ",
    "# Step {n}. ",
    "# Calculate: ",
    "# First we note that ",
)
ERRORS = (
    "NameError: name '{v}' is not defined",
    "SyntaxError: invalid syntax",
    "TypeError: unsupported operand type(s) for -: 'str' and 'int'",
    "ZeroDivisionError: integer division or modulo by zero",
)

Encode = Callable[[str], Sequence[int]]


def grow_tree(
    problem_id: str,
    seed: int,
    *,
    num_rollouts: int = 16,
    num_candidates: int = 8,
    max_depth: int = 8,
    scored: bool = False,
    skill: float = 0.6,
    encode: Encode | None = None,
    tree_index: int = 0,
) -> Tree:
    """A tree of `num_rollouts` rollouts. `scored`: new nodes get a float32 first value, as from a value model.

    `encode` turns step texts into token ids; by default about one id per 3.6 characters, equal for equal texts.
    """
    random_ = rng(seed, problem_id, tree_index)
    story = _Story(random_)
    tree = Tree(problem_id=problem_id, question=story.question(), seed=seed, tree_index=tree_index)
    for _ in range(num_rollouts):
        if tree.exhausted:
            break
        _rollout(tree, story, random_, num_candidates, max_depth, scored, skill, encode or chunk_ids)
    return tree


def chunk_ids(text: str) -> list[int]:
    """Stand-in for a tokenizer: equal words have equal ids, digits stand alone."""
    import re
    import zlib

    words = re.findall(r"\d|\s?[A-Za-z_]{1,7}|\s+|.", text, re.DOTALL)
    return [zlib.crc32(word.encode("utf-8", "surrogatepass")) % 4096 for word in words]


def _rollout(
    tree: Tree, story: _Story, random_: random.Random, num_candidates: int, max_depth: int,
    scored: bool, skill: float, encode: Encode,
) -> None:  # fmt: skip
    node_id = ROOT
    while tree.nodes[node_id].terminal is None:
        if not tree.nodes[node_id].children:
            _expand(tree, node_id, story, random_, num_candidates, scored, skill, encode)
        open_children = [child for child in tree.live_children(node_id) if not tree.nodes[child].closed]
        if not open_children:
            tree.nodes[node_id].terminal = TerminalReason.CODE_ERRORS
            break
        node_id = max(open_children, key=lambda child: _uct(tree, child, random_))
        node = tree.nodes[node_id]
        if node.kind is StepKind.ANSWER:
            node.terminal = TerminalReason.ANSWERED
            node.verified = node.answer == story.answer
        elif node.depth >= max_depth:
            node.terminal = TerminalReason.MAX_DEPTH
            node.initial_value, node.visit_count, node.value_sum = None, 0, 0.0
    node = tree.nodes[node_id]
    node.closed = True
    value = 1.0 if node.verified else -1.0
    for step_id in (ROOT, *tree.path(node_id)):
        tree.nodes[step_id].visit_count += 1
        tree.nodes[step_id].value_sum += value
    for step_id in (*tree.path(node_id)[-2::-1], ROOT):
        step = tree.nodes[step_id]
        step.closed = step.terminal is not None or all(
            tree.nodes[c].closed for c in tree.live_children(step_id)
        )
    tree.num_rollouts += 1


def _uct(tree: Tree, child: int, random_: random.Random) -> tuple[float, float]:
    node, parent = tree.nodes[child], tree.nodes[tree.nodes[child].parent]
    if not node.visit_count:
        return math.inf, random_.random()
    bonus = 2 * math.sqrt(math.log(max(parent.visit_count, 1)) / node.visit_count)
    return node.q_value + bonus, random_.random()


def _expand(
    tree: Tree, node_id: int, story: _Story, random_: random.Random, num_candidates: int,
    scored: bool, skill: float, encode: Encode,
) -> None:  # fmt: skip
    parent = tree.nodes[node_id]
    texts: dict[str, int] = {}
    for text in story.candidates(parent, num_candidates):
        texts[text] = texts.get(text, 0) + 1
    for text, multiplicity in texts.items():
        kind = _kind(text)
        token_ids = tuple(encode(text))
        node = Node(
            parent=node_id, depth=parent.depth + 1, text=text, kind=kind, token_ids=token_ids,
            mean_logprob=-random_.expovariate(4), multiplicity=multiplicity, rollout=tree.num_rollouts,
        )  # fmt: skip
        tree.num_tokens += len(token_ids) * multiplicity
        if kind is not StepKind.ANSWER:
            tree.num_executions += 1
            if random_.random() < 0.12:
                node.execution = ExecutionVerdict.ERROR
                node.error = random_.choice(ERRORS).format(v=random_.choice(VARIABLES))
            elif kind is StepKind.FINAL_CODE:
                node.stdout = f"{random_.randrange(1, 400)}\n"
        else:
            node.answer = story.answer if random_.random() < skill else str(random_.randrange(1, 400))
        if scored and node.live and kind is not StepKind.ANSWER:
            node.initial_value = _float32(math.tanh(random_.gauss(0.2, 0.8)))
            node.visit_count, node.value_sum = 1, node.initial_value
        tree.nodes.append(node)
        parent.children.append(len(tree.nodes) - 1)


def _kind(text: str) -> StepKind:
    tags = {END_OF_STEP: StepKind.CODE, END_OF_CODE: StepKind.FINAL_CODE, END_OF_ANSWER: StepKind.ANSWER}
    return next(kind for tag, kind in tags.items() if text.endswith(tag))


def _float32(value: float) -> float:
    import struct

    return float(struct.unpack("<f", struct.pack("<f", value))[0])


class _Story:
    """The words of one problem: who, what, and the numbers its steps share."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.name, self.friend = random_.sample(NAMES, 2)
        self.things = random_.choice(THINGS)
        self.numbers = [random_.randrange(2, 10 ** random_.randint(1, 3)) for _ in range(12)]
        self.variables = random_.sample(VARIABLES, 6)
        self.answer = str(random_.randrange(1, 400))

    def question(self) -> str:
        deeds = [self._deed(n)[0] for n in range(3)]
        return f"{self.name} has {self.numbers[0]} {self.things}. {self.name} {', then '.join(deeds)}. How many are left?"

    def _deed(self, n: int) -> tuple[str, str, str]:
        choose = self.random.choice
        operation = (
            OPERATIONS[(n + self.numbers[n]) % len(OPERATIONS)]
            if self.random.random() < 0.7
            else choose(OPERATIONS)
        )
        b = self.numbers[n + 1] if self.random.random() < 0.8 else self.random.randrange(2, 100)
        before = self.variables[n - 1] if n else str(self.numbers[0])
        words = {
            "a": self.numbers[n],
            "b": b,
            "things": self.things,
            "place": choose(PLACES),
            "before": before,
        }
        said, how, formula = (part.format(**words) for part in operation)
        return said, how, formula

    def candidates(self, parent: Node, num_candidates: int) -> list[str]:
        """Sampled continuations; a common one repeats, as a sharp policy's do."""
        make = self._answers if parent.kind is StepKind.FINAL_CODE else self._code_steps
        drawn = list(itertools.islice(make(parent.depth), num_candidates))
        return [drawn[0] if self.random.random() < 0.1 else text for text in drawn]

    def _answers(self, depth: int) -> itertools.chain[str] | map[str]:
        frames = (
            "The answer is \\boxed{{{a}}}",
            "So {n} has \\boxed{{{a}}} {t}.",
            "{n} is left with \\boxed{{{a}}} {t}.",
        )

        def one(_: int) -> str:
            a = self.answer if self.random.random() < 0.6 else str(self.random.randrange(1, 400))
            body = self.random.choice(frames).format(a=a, n=self.name, t=self.things)
            return f"{ANSWER}{body}{END_OF_ANSWER}"

        return map(one, itertools.count())

    def _code_steps(self, depth: int) -> map[str]:
        n = min(depth, 5)

        def one(_: int) -> str:
            said, how, formula = self._deed(n)
            if depth >= 2 and self.random.random() < 0.3:
                what = self.random.choice(
                    ("Print the result", "Now print the final answer", "Output what is left")
                )
                return f"# {what} ({self.things})\nprint({self.variables[n - 1]}){END_OF_CODE}"
            opening = self.random.choice(OPENINGS).format(n=depth + 1)
            who = self.random.choice((self.name, self.name, self.friend, "she", "he"))
            variable = self.variables[n] if self.random.random() < 0.8 else self.random.choice(VARIABLES)
            because = f", so we {how}" if self.random.random() < 0.6 else ""
            return f"{opening}{who} {said}{because}\n{variable} = {formula}\n{END_OF_STEP}"

        return map(one, itertools.count())
