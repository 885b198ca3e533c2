"""The store: bytes per node, nodes written and scanned per second, growth over rollouts; against one JSON line per tree.

    python -m benchmarks.bench_store [--trees 200] [--answers ../shared/data/math_cot_100.jsonl]

Prints Markdown. Trees are arithmetic word problems as `benchmarks.forest` grows them (16 rollouts of 8 candidates), with
the ids of a byte-pair tokenizer trained here on other trees, spread over 151,643 ids as in a large vocabulary. With
`--answers` a second set has real model answers cut into steps, siblings from samples of one question: no template
repeats in them, so they bound the size from above. Speeds are CPU-seconds of this process, threads included; the JSON
writer syncs each line to the disk, as the store does each tree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.forest import grow_tree
from rstar.seeds import rng
from rstar.steps import StepKind
from rstar.store import Kind, Store
from rstar.store.rows import TREE_KINDS
from rstar.tree import Node, Tree

VOCABULARY = 151_643
STEP_CHARS = 90


def train_encode(texts: Iterable[str]) -> Callable[[str], list[int]]:
    """A byte-level BPE tokenizer with single digits; its ids spread, in order, over a large vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = sorted(rng(0, "ids").sample(range(VOCABULARY), tokenizer.get_vocab_size()))
    return lambda text: [ids[token] for token in tokenizer.encode(text).ids]


def word_problem_trees(num_trees: int, *, scored: bool, encode: Callable[[str], list[int]]) -> list[Tree]:
    return [grow_tree(f"train-{n:06d}", 7, scored=scored, encode=encode) for n in range(num_trees)]


def answer_trees(path: Path) -> list[Tree]:
    """Real answers cut into steps; statistics, outputs and links from a grown tree of the same size."""
    questions = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    cut = [[_steps(answer) for answer in question["response"]] for question in questions]
    encode = train_encode(step for answers in cut for steps in answers for step in steps)
    trees = []
    for number, answers in enumerate(cut):
        by_depth = [[s[d] for s in answers if d < len(s)] for d in range(max(map(len, answers)))]
        texts = [text for siblings in by_depth for text in siblings]
        shape = grow_tree(f"answers-{number:04d}", 7, num_rollouts=max(2, len(texts) // 30), scored=True)
        nodes = [_with_text(node, text, encode) for node, text in zip(shape.nodes[1:], texts, strict=False)]
        kept = [shape.nodes[0], *nodes]
        for node in kept:
            node.children = [child for child in node.children if child < len(kept)]
        trees.append(dataclasses.replace(shape, question=questions[number]["question"], nodes=kept))
    return trees


def _steps(answer: str) -> list[str]:
    return re.findall(rf"(?s).{{1,{STEP_CHARS}}}(?:\s|$)", answer)


def _with_text(node: Node, text: str, encode: Callable[[str], list[int]]) -> Node:
    kind = node.kind if node.kind is not StepKind.ANSWER else StepKind.CODE
    return dataclasses.replace(
        node, text=text, token_ids=tuple(encode(text)), kind=kind, terminal=None, answer=None
    )


def write_json_lines(trees: Sequence[Tree], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for tree in trees:
            file.write(json.dumps(dataclasses.asdict(tree), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_json_lines(path: Path) -> int:
    """Nodes read; as dicts, not yet trees."""
    with path.open(encoding="utf-8") as file:
        return sum(len(json.loads(line)["nodes"]) for line in file)


def write_store(trees: Sequence[Tree], folder: Path) -> Store:
    store = Store.create(folder)
    with store.writer(round=1) as writer:
        for tree in trees:
            writer.append(tree, level="easy")
    return store


@dataclasses.dataclass(frozen=True)
class Timed:
    """What a call took and gave."""

    result: Any
    wall_s: float
    cpu_s: float


def timed(call: Callable[[], Any]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Timed(result, time.perf_counter() - wall, time.process_time() - cpu)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(name: str, trees: list[Tree], folder: Path) -> list[str]:
    """A table row of sizes and speeds."""
    nodes = [node for tree in trees for node in tree.nodes]
    json_path = folder / "trees.jsonl"
    write = timed(lambda: write_store(trees, folder / "store"))
    json_write = timed(lambda: write_json_lines(trees, json_path))
    store: Store = write.result
    scan = timed(lambda: store.table(Kind.NODES).num_rows)
    read = timed(lambda: sum(len(tree.nodes) for tree in store.trees()))
    json_read = timed(lambda: read_json_lines(json_path))
    assert scan.result == read.result == json_read.result == len(nodes)
    size, json_size = size_of(store.folder) / len(nodes), json_path.stat().st_size / len(nodes)
    chars = sum(len(node.text) for node in nodes) / len(nodes)
    ids = sum(len(node.token_ids) for node in nodes) / len(nodes)

    def rate(what: Timed) -> str:
        return f"{len(nodes) / what.cpu_s:,.0f} ({len(nodes) / what.wall_s:,.0f})"

    return [
        name, f"{len(nodes):,}", f"{chars:.0f}", f"{ids:.0f}", f"**{size:.1f}**", f"{json_size:.0f}",
        f"{json_size / size:.1f}×", rate(write), rate(json_write), rate(scan), rate(read), rate(json_read),
    ]  # fmt: skip


def column_sizes(store: Store) -> list[list[str]]:
    """Compressed bytes per node of each column, largest first."""
    sizes: dict[str, int] = {}
    num_nodes = store.table(Kind.NODES).num_rows
    for kind in TREE_KINDS:
        for path in store.folder.glob(f"{kind}/*/*.parquet"):
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                for index in range(metadata.num_columns):
                    column = metadata.row_group(group).column(index)
                    name = f"{kind}.{column.path_in_schema.removesuffix('.list.element')}"
                    sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    rows = [[f"`{name}`", f"{size / num_nodes:.2f}"] for name, size in ranked[:8]]
    return [*rows, ["all others", f"{sum(size for _, size in ranked[8:]) / num_nodes:.2f}"]]


def growth(encode: Callable[[str], list[int]], folder: Path, num_trees: int) -> list[list[str]]:
    rows = []
    for num_rollouts in (8, 16, 32, 64, 128):
        trees = [
            grow_tree(f"train-{n:06d}", 7, num_rollouts=num_rollouts, max_depth=16, encode=encode)
            for n in range(num_trees)
        ]
        store = write_store(trees, folder / str(num_rollouts))
        num_nodes, size = sum(len(tree.nodes) for tree in trees), size_of(store.folder)
        done = sum(tree.num_rollouts for tree in trees)
        rows.append(
            [
                f"{num_rollouts}",
                f"{num_nodes:,}",
                f"{size / 1024:,.0f}",
                f"{size / done:,.0f}",
                f"{size / num_nodes:.1f}",
            ]
        )
    return rows


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Size and speed of the store.")
    parser.add_argument("--trees", type=int, default=200, help="number of trees (about 470 nodes each)")
    parser.add_argument("--answers", type=Path, help="JSONL with `question` and `response` (a list of texts)")
    arguments = parser.parse_args()
    others = [grow_tree(f"other-{n}", 3, num_rollouts=8) for n in range(30)]
    encode = train_encode(node.text for tree in others for node in tree.nodes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {
            "terminal-guided": word_problem_trees(arguments.trees, scored=False, encode=encode),
            "with a value model": word_problem_trees(arguments.trees, scored=True, encode=encode),
        }
        if arguments.answers is not None:
            sets["real answers as steps"] = answer_trees(arguments.answers)
        rows = []
        for number, (label, trees) in enumerate(sets.items()):
            (folder / f"set{number}").mkdir()
            rows.append(report(label, trees, folder / f"set{number}"))
        heads = [
            "trees", "nodes", "chars a step", "ids a step", "bytes a node", "JSON bytes a node", "JSON / store",
            "written nodes/CPU-s (/s)", "JSON written", "scanned as columns", "read as trees", "JSON parsed",
        ]  # fmt: skip
        print(table(heads, rows), end="\n\n")
        print("Largest columns, bytes per node (with a value model):\n")
        print(table(["column", "bytes a node"], column_sizes(Store(folder / "set1" / "store"))), end="\n\n")
        print("Growth over rollouts:\n")
        heads = ["rollouts", "nodes", "KiB", "bytes a rollout", "bytes a node"]
        print(table(heads, growth(encode, folder, max(arguments.trees // 10, 4))))


if __name__ == "__main__":
    main()
