"""Golden trees: small searches stored with their settings, to be compared exactly.

Each file in `golden/` says how its tree came about (`settings`) and what it is (`tree`, one line a node). After a change
that is meant to change trees, write them anew and read the difference, node by node:

    python -m tests.rstar.golden_trees && git diff tests/rstar/golden
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rstar.config import SearchConfig, build
from rstar.tree import Tree
from tests.rstar.fakes import TextJudge
from tests.rstar.worlds import RandomWorld, coarse_value, engines, new_tree, search_one

FOLDER = Path(__file__).parent / "golden"

_COLUMNS = (
    "parent", "depth", "text", "rollout", "multiplicity", "execution", "stdout", "error", "terminal", "answer",
    "verified", "initial_value", "visit_count", "value_sum", "closed",
)  # fmt: skip


def grow(settings: dict[str, Any]) -> Tree:
    """Search the world of `settings`: seed, world, reference answer (null: inference), value model or not, config."""
    value = coarse_value if settings["value_model"] else None
    tree = new_tree(seed=settings["seed"])
    parts = engines(RandomWorld(**settings["world"]).respond, value=value)
    return search_one(
        tree, parts, build(SearchConfig, settings["config"]), judge=TextJudge(settings["reference_answer"])
    )


def plain(tree: Tree) -> dict[str, Any]:
    """A tree as JSON values; a node's fields that have their default value are left out."""
    root = tree.nodes[0]
    default = {
        "depth": 0,
        "text": "",
        "multiplicity": 1,
        "execution": "ok",
        "stdout": "",
        "error": "",
        "closed": False,
    }
    nodes: list[dict[str, Any]] = []
    for node_id, node in enumerate(tree.nodes):
        fields = {"id": node_id, **{name: getattr(node, name) for name in _COLUMNS}}
        nodes.append(
            {k: v for k, v in fields.items() if v is not None and (k not in default or v != default[k])}
        )
    assert root.parent == -1
    return {
        "num_rollouts": tree.num_rollouts,
        "num_tokens": tree.num_tokens,
        "num_executions": tree.num_executions,
        "nodes": nodes,
    }


def render(golden: dict[str, Any]) -> str:
    """One line a node, so that a difference reads as what happened to a node."""
    head = {**golden, "tree": {**golden["tree"], "nodes": []}}
    nodes = ",\n".join(f"      {json.dumps(node, ensure_ascii=False)}" for node in golden["tree"]["nodes"])
    return (
        json.dumps(head, indent=2, ensure_ascii=False).replace('"nodes": []', f'"nodes": [\n{nodes}\n    ]')
        + "\n"
    )


def main() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        golden = json.loads(path.read_text())
        path.write_text(render({**golden, "tree": plain(grow(golden["settings"]))}))


if __name__ == "__main__":
    main()
