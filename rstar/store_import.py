"""rStar-Math's JSON trees into a store: read whole, judged by our grader, appended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rstar.errors import StoreError
from rstar.grading import Grader
from rstar.rstar_math import ImportedTree, MalformedRow, read_trees
from rstar.store import Store
from rstar.tree import TerminalReason, Tree

ORIGIN = "rStar-Math JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What was imported, and what of it is not as it was."""

    num_trees: int
    num_nodes: int
    num_answers: int
    num_right: int
    """Answers that our grader finds equal to the reference."""
    num_judged_otherwise: int
    """Answers with a terminal reward of +1 or -1 where our grader says the opposite."""
    num_unparsable: int
    """Steps that are not in the step format."""
    num_recounted: int
    """Nodes whose visits in the file are not the sum of their parts."""
    malformed: tuple[str, ...]
    """Rows left out, a line each."""


def import_files(
    files: Sequence[Path], store: Store, *, round: int, skip_malformed: bool = False
) -> ImportReport:
    """Append the trees of all files to a round of the store. Answers are judged against the row's `answer`, if it has one.

    Everything is read and checked before the first tree is written. Raises StoreError for the first malformed row, unless
    they are to be skipped, for a tree that the round has already, and for files without any tree.
    """
    present = store.keys(round)
    indices: Counter[str] = Counter()
    malformed: list[str] = []
    for found in _read(files):
        if isinstance(found, MalformedRow):
            if not skip_malformed:
                raise StoreError(found.message)
            malformed.append(found.message)
            continue
        key = (found.problem.id, indices[found.problem.id])
        if key in present:
            raise StoreError(
                f"round {round} of {store.folder} has tree {key[0]}#{key[1]} already; import into another --round or store"
            )
        indices[found.problem.id] += 1
    if not indices:
        raise StoreError(f"no tree in {', '.join(map(str, files))}")
    totals: Counter[str] = Counter()
    indices.clear()
    settings = {"imported_from": ORIGIN, "files": [file.name for file in files]}
    with Grader() as grader, store.writer(round=round, settings=settings) as writer:
        for found in _read(files):
            if isinstance(found, MalformedRow):
                continue
            tree, problem = found.tree, found.problem
            tree.tree_index = indices[problem.id]
            indices[problem.id] += 1
            totals.update(_judge(tree, problem.answer, grader))
            totals.update(
                num_trees=1, num_nodes=len(tree.nodes), num_unparsable=found.num_unparsable,
                num_recounted=found.num_recounted,
            )  # fmt: skip
            writer.append(tree, level=problem.level, source=problem.source)
    return ImportReport(
        **{f.name: totals[f.name] for f in fields(ImportReport) if f.name != "malformed"},
        malformed=tuple(malformed),
    )


def _read(files: Sequence[Path]) -> Iterator[ImportedTree | MalformedRow]:
    for file in files:
        yield from read_trees(file)


def _judge(tree: Tree, reference: str, grader: Grader) -> dict[str, int]:
    """Judge the answers of a tree, if there is a reference; counts for the report."""
    answers = [node for node in tree.nodes if node.terminal is TerminalReason.ANSWERED]
    if reference:
        for node in answers:
            node.verified = grader.grade_sync(node.answer or "", reference).equal
    otherwise = sum(
        node.verified is not None and node.q_value == (-1 if node.verified else 1) for node in answers
    )
    return {
        "num_answers": len(answers),
        "num_right": sum(bool(node.verified) for node in answers),
        "num_judged_otherwise": otherwise,
    }
