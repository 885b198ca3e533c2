"""The pictures of docs/concepts.md, drawn as SVG: `python -m docs.scripts.pictures` writes them into docs/images.

Colours suit light and dark pages: boxes bring their own ground, what lies between them is of middle grey. Numbers in the
pictures of values are computed by the search's own backup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rstar.mcts import Evaluated, expand
from rstar.tree import ROOT, Node, TerminalReason, Tree

IMAGES = Path(__file__).resolve().parents[1] / "images"

INK, GREY = "#1b2330", "#7d8590"
BLUE, GREEN, RED, ORANGE, WHITE, DIM = "#bcd6ff", "#a9dfb4", "#f5b0a8", "#ffd394", "#f3f5f8", "#c9ced6"
STRONG_BLUE, STRONG_GREEN, STRONG_ORANGE = "#3b7dd8", "#2e9e4f", "#d9822b"
LINE_HEIGHT = 17
_ANCHORS = {"middle": "middle", "left": "start"}


@dataclass
class Picture:
    """An SVG in the making; lengths are pixels."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, *, size: int = 13, colour: str = GREY, bold: bool = False, align: str = "middle",
        code: bool = False,
    ) -> None:  # fmt: skip
        """A line of text whose middle (or left end) is at x and whose baseline is at y."""
        weight = ' font-weight="600"' if bold else ""
        family = ' font-family="ui-monospace, Menlo, Consolas, monospace"' if code else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{_ANCHORS[align]}"'
            f'{weight}{family} xml:space="preserve">{escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, lines: list[str], *, fill: str = BLUE, code: bool = False,
        dashed: bool = False, size: int = 13,
    ) -> None:  # fmt: skip
        """A box with its upper left corner at x, y, and lines of text in it."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{GREY}"{dash}/>'
        )
        top = y + height / 2 - LINE_HEIGHT * (len(lines) - 1) / 2 + 4.5
        for number, line in enumerate(lines):
            at, align = (x + 10, "left") if code else (x + width / 2, "middle")
            self.text(at, top + LINE_HEIGHT * number, line, colour=INK, align=align, code=code, size=size)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, colour: str = GREY, width: float = 1.5, arrow: bool = False,
        bend: float = 0, dashed: bool = False,
    ) -> None:  # fmt: skip
        """A line, straight or bent aside by `bend`, with an arrow's head at its end if asked for."""
        head = f' marker-end="url(#head-{colour[1:]})"' if arrow else ""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        middle_x, middle_y = (x1 + x2) / 2 + bend * (y2 - y1), (y1 + y2) / 2 - bend * (x2 - x1)
        self.parts.append(
            f'<path d="M{x1:g} {y1:g} Q{middle_x:g} {middle_y:g} {x2:g} {y2:g}" fill="none" stroke="{colour}" '
            f'stroke-width="{width:g}"{head}{dash}/>'
        )

    def svg(self, title: str) -> str:
        heads = "".join(
            f'<marker id="head-{colour[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="11" markerHeight="11" markerUnits="userSpaceOnUse" '
            f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
            for colour in (GREY, STRONG_BLUE, STRONG_GREEN, STRONG_ORANGE)
        )
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(title)}</title>\n<defs>{heads}</defs>\n{body}\n</svg>\n"
        )


def step() -> str:
    """A solution from prompt to answer, and who writes what."""
    picture = Picture(800, 330)
    left, wide = 150, 440
    rows: list[tuple[str, list[str], str, str, int]] = [
        ("question", ["kim has 16 bags of 3 apples. how many apples?"], WHITE, "the engine", 34),
        (
            "step 1",
            ["# apples in all bags", "apples = 16 * 3", "<end_of_step>"],
            BLUE,
            "the policy, then the sandbox",
            66,
        ),
        (
            "step 2",
            ["# print the answer", "print(apples)", "<end_of_code>"],
            BLUE,
            "the policy, then the sandbox",
            66,
        ),
        ("output", ["<output>48<end_of_output>"], WHITE, "the engine", 34),
        (
            "answer",
            ["<answer>The answer is \\boxed{48}", "<end_of_answer>"],
            GREEN,
            "the policy, then the judge",
            50,
        ),
    ]
    y = 10
    for name, lines, fill, writer, height in rows:
        picture.text(left - 20, y + height / 2 + 4.5, name, bold=True)
        picture.parts[-1] = picture.parts[-1].replace('text-anchor="middle"', 'text-anchor="end"')
        picture.box(left, y, wide, height, lines, fill=fill, code=True)
        picture.text(left + wide + 14, y + height / 2 + 4.5, writer, align="left", size=12)
        y += height + 15
    return picture.svg("A solution: two code steps, what the program printed, the answer")


def tree() -> str:
    """Three levels of alternatives with a right answer, a wrong one and a failed step."""
    picture = Picture(760, 350)
    picture.box(290, 10, 180, 34, ["question"], fill=WHITE)
    boxes = [
        (70, 90, ["apples = 16 * 3"], BLUE, (380, 44)),
        (290, 90, ["apples = 16 + 3"], BLUE, (380, 44)),
        (510, 90, ["apples = bags * 3"], DIM, (380, 44)),
        (70, 180, ["print(apples)"], BLUE, (160, 124)),
        (290, 180, ["print(apples)"], BLUE, (380, 124)),
        (70, 270, ["answer: 48"], GREEN, (160, 214)),
        (290, 270, ["answer: 19"], RED, (380, 214)),
    ]
    for x, y, lines, fill, (from_x, from_y) in boxes:
        right_way = x == 70
        picture.line(
            from_x,
            from_y,
            x + 90,
            y,
            colour=STRONG_GREEN if right_way else GREY,
            width=3 if right_way else 1.5,
        )
        picture.box(x, y, 180, 34, lines, fill=fill, code=True, dashed=fill == DIM)
    for x, text in ((160, "right: +1"), (380, "wrong: -1")):
        picture.text(x, 326, text)
    picture.text(600, 143, "NameError: a failed leaf")
    picture.text(600, 161, "nothing follows it")
    picture.text(48, 112, "1", bold=True)
    picture.text(48, 202, "2", bold=True)
    picture.text(48, 292, "3", bold=True)
    picture.text(48, 66, "depth")
    return picture.svg(
        "A tree of steps: the path on the left ends in a right answer, the one in the middle in a wrong one"
    )


def rollout() -> str:
    """Select, expand, evaluate, back up: the same small tree four times."""
    picture = Picture(860, 270)
    for number, name in enumerate(("1 select", "2 expand", "3 evaluate", "4 back up")):
        left = 14 + 214 * number
        picture.text(left + 95, 18, name, bold=True, size=14)
        root, near, far = (left + 95, 50), (left + 50, 110), (left + 140, 110)
        new = [(left + 12, 180), (left + 50, 180), (left + 88, 180)]
        selecting, backing = number == 0, number == 3
        way = STRONG_BLUE if selecting else STRONG_ORANGE if backing else GREY
        for start, end in ((root, near), (root, far)):
            marked = (selecting or backing) and end == near
            if backing and marked:
                start, end = end, start
            picture.line(
                *_between(start, end),
                colour=way if marked else GREY,
                width=3 if marked else 1.5,
                arrow=marked,
            )
        if number >= 1:
            for index, place in enumerate(new):
                marked = backing and index < 2
                start, end = (place, near) if marked else (near, place)
                picture.line(
                    *_between(start, end),
                    colour=way if marked else GREY,
                    width=3 if marked else 1.5,
                    arrow=marked,
                    dashed=number == 1,
                )
        for place in (root, near, far):
            _node(picture, *place, fill=WHITE if place == root else BLUE)
        if number >= 1:
            fills = [ORANGE] * 3 if number == 1 else [GREEN, RED, DIM]
            for place, fill in zip(new, fills, strict=True):
                _node(picture, *place, fill=fill)
        if number in (2, 3):
            for place, text in zip(new, ("+1", "-1", "error"), strict=True):
                picture.text(place[0], place[1] + 32, text, size=12)
    captions = (
        ("down to the child with", "the highest UCT"), ("the policy proposes", "several next steps"),
        ("each runs in the sandbox;", "answers are graded"), ("the reward goes to every", "node on the way to the root"),
    )  # fmt: skip
    for number, lines in enumerate(captions):
        for row, line in enumerate(lines):
            picture.text(14 + 214 * number + 95, 242 + 17 * row, line, size=12)
    return picture.svg("A rollout: select, expand, evaluate, back up")


def q_values() -> str:
    """N, W and Q of a small tree, after answers were backed up as the search does it."""
    found = Tree(problem_id="picture", question="")
    good, bad = expand(found, ROOT, [_code(ROOT, 1), _code(ROOT, 1)])
    answers = [*expand(found, good, [_answer(good, 2, 1.0), _answer(good, 2, 1.0), _answer(good, 2, -1.0)]),
               *expand(found, bad, [_answer(bad, 2, -1.0)])]  # fmt: skip
    picture = Picture(760, 300)
    places = {ROOT: (300, 10), good: (170, 110), bad: (500, 110)}
    places |= {answer: (x, 220) for answer, x in zip(answers, (40, 190, 340, 530), strict=True)}
    for node_id, (x, y) in places.items():
        if node_id != ROOT:
            above = places[found.nodes[node_id].parent]
            picture.line(x + 70, y, above[0] + 70, above[1] + 56, arrow=True, colour=STRONG_ORANGE)
    for node_id, (x, y) in places.items():
        node = found.nodes[node_id]
        name = "question" if node_id == ROOT else "step" if node.terminal is None else "answer"
        fill = (
            WHITE
            if node_id == ROOT
            else BLUE
            if node.terminal is None
            else GREEN
            if node.value_sum > 0
            else RED
        )
        numbers = f"N {node.visit_count}  W {node.value_sum:+g}"
        picture.box(x, y, 140, 56, [name, f"{numbers}  Q {node.q_value:+.2f}"], fill=fill, size=12)
    picture.text(150, 88, "each reward goes all the way up", size=12)
    return picture.svg("N counts what was backed up through a node, W adds it up, Q is W / N")


def ppm() -> str:
    """Pairs from a tree, and what the trained model does with new steps."""
    picture = Picture(800, 250)
    picture.text(140, 20, "from the trees", bold=True, size=14)
    picture.box(60, 40, 160, 34, ["the same prefix"], fill=WHITE)
    picture.box(10, 120, 120, 50, ["one next step", "Q +0.8"], fill=GREEN)
    picture.box(150, 120, 120, 50, ["another", "Q -0.6"], fill=RED)
    picture.line(140, 74, 70, 120)
    picture.line(140, 74, 210, 120)
    picture.text(140, 200, "a pair: the left is better", size=12)
    picture.line(285, 140, 335, 140, arrow=True)
    picture.text(420, 20, "preference model", bold=True, size=14)
    picture.box(345, 100, 150, 80, ["trained to score", "the better step", "higher"], fill=ORANGE)
    picture.line(505, 140, 555, 140, arrow=True)
    picture.text(670, 20, "in the next search", bold=True, size=14)
    picture.box(590, 40, 160, 34, ["a new prefix"], fill=WHITE)
    for x, score, fill in ((560, "+0.7", GREEN), (635, "-0.2", BLUE), (710, "-0.9", RED)):
        picture.line(670, 74, x + 32, 120)
        picture.box(x, 120, 65, 50, ["step", score], fill=fill)
    picture.text(670, 200, "scored before anything follows", size=12)
    return picture.svg("Pairs of better and worse steps train a model that scores new steps")


def round_() -> str:
    """What a round makes from what, and how the next one begins."""
    picture = Picture(860, 262)
    picture.box(10, 100, 110, 50, ["problems"], fill=WHITE)
    picture.box(170, 90, 130, 70, ["search", "with the models", "so far"], fill=BLUE)
    picture.box(350, 90, 120, 70, ["store", "whole trees"], fill=WHITE)
    picture.box(520, 30, 140, 60, ["best verified", "trajectories"], fill=WHITE)
    picture.box(520, 160, 140, 60, ["pairs of better", "and worse steps"], fill=WHITE)
    picture.box(710, 30, 130, 60, ["policy"], fill=GREEN)
    picture.box(710, 160, 130, 60, ["preference", "model"], fill=ORANGE)
    for x1, y1, x2, y2 in ((120, 125, 170, 125), (300, 125, 350, 125), (470, 115, 520, 70), (470, 135, 520, 180),
                           (660, 60, 710, 60), (660, 190, 710, 190)):  # fmt: skip
        picture.line(x1, y1, x2, y2, arrow=True)
    picture.line(775, 30, 235, 90, colour=STRONG_GREEN, width=2.5, arrow=True, bend=-0.17)
    picture.line(775, 220, 235, 160, colour=STRONG_ORANGE, width=2.5, arrow=True, bend=0.17)
    picture.text(300, 22, "proposes in the next round", size=12)
    picture.text(300, 250, "guides in later rounds", size=12)
    return picture.svg("A round: search, store, train policy and preference model, search again")


def _node(picture: Picture, x: float, y: float, *, fill: str) -> None:
    picture.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="13" fill="{fill}" stroke="{GREY}"/>')


def _between(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float, float, float]:
    """From rim to rim of two nodes."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    rim_x, rim_y = 14 * dx / length, 14 * dy / length
    return start[0] + rim_x, start[1] + rim_y, end[0] - rim_x, end[1] - rim_y


def _code(parent: int, depth: int) -> Evaluated:
    return Evaluated(node=Node(parent=parent, depth=depth), value=None)


def _answer(parent: int, depth: int, value: float) -> Evaluated:
    node = Node(parent=parent, depth=depth, terminal=TerminalReason.ANSWERED)
    return Evaluated(node=node, value=value)


PICTURES = {"step": step, "tree": tree, "rollout": rollout, "q": q_values, "ppm": ppm, "round": round_}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (IMAGES / f"{name}.svg").write_text(draw(), encoding="utf-8")
