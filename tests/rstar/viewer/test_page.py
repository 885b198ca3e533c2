"""The page's file: its data are safe and complete, its script is the one that the sources give, and carries its licences."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rstar.store.text import unescape
from rstar.tree import Node, Tree
from rstar.viewer import render_page
from tests.rstar.viewer.trees import searched

VIEWER = Path(__file__).resolve().parents[3] / "rstar" / "viewer"
FRONTEND = VIEWER / "frontend"
HOSTILE = (
    "</script><script>document.title = 'owned'</script><!-- <img src=x onerror=alert(1)> \ud800 \u2028 & \0"
)


def data_of(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def test_the_script_is_built_from_the_sources_that_lie_beside_it() -> None:
    names = ["build.mjs", "package-lock.json", "package.json"]
    names += [f"src/{path.name}" for path in (FRONTEND / "src").iterdir()]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\0".encode() + (FRONTEND / name).read_bytes() + b"\0")
    script = (VIEWER / "viewer.js").read_text("utf-8")
    assert f"\nsources sha256 {digest.hexdigest()}\n" in script, "sources have changed: run `make viewer`"


def test_every_package_in_the_script_is_named_with_its_licence() -> None:
    script = (VIEWER / "viewer.js").read_text("utf-8")
    head, _, code = script.partition("*/")
    wanted = json.loads((FRONTEND / "package.json").read_text("utf-8"))["dependencies"]
    for name, version in wanted.items():
        assert f"{name} {version}" in head
    assert "Permission to use, copy, modify" in head
    assert len(code) > 10_000


def test_the_lock_file_pins_content_and_names_no_host() -> None:
    lock = json.loads((FRONTEND / "package-lock.json").read_text("utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name


def test_what_a_model_wrote_cannot_leave_the_pages_data() -> None:
    tree = Tree(problem_id="p", question=HOSTILE)
    tree.nodes.append(Node(parent=0, depth=1, text=HOSTILE, stdout=HOSTILE, error=HOSTILE, answer=HOSTILE))
    tree.root.children.append(1)
    page = render_page({HOSTILE: tree}, title=HOSTILE.replace("\ud800", ""))
    assert page.encode("utf-8")
    assert page.count("<script") == 2
    assert "<img" not in page
    (shown,) = data_of(page)["trees"]
    assert shown["question"] == shown["nodes"]["stdout"][1] == shown["label"] == HOSTILE


def test_every_node_and_every_figure_is_in_the_page() -> None:
    tree = searched()
    (shown,) = data_of(render_page({"x": tree}, title="x"))["trees"]
    columns = shown["nodes"]
    assert columns["id"] == list(range(len(tree.nodes)))
    for at, node in enumerate(tree.nodes):
        assert columns["parent"][at] == node.parent
        assert columns["visit_count"][at] == node.visit_count
        assert columns["value_sum"][at] == pytest.approx(node.value_sum, abs=1e-6)
        assert columns["initial_value"][at] == node.initial_value
        assert columns["terminal"][at] == node.terminal
        assert unescape(columns["stdout"][at]) == node.stdout
        assert columns["text"][at] in node.text


def test_numbers_that_json_lacks_become_null() -> None:
    tree = Tree(problem_id="p", question="?")
    tree.root.value_sum = float("nan")
    tree.root.mean_logprob = float("-inf")
    (shown,) = data_of(render_page({"x": tree}, title="x"))["trees"]
    assert (shown["nodes"]["value_sum"], shown["nodes"]["mean_logprob"]) == ([None], [None])


@pytest.mark.parametrize(
    ("live_url", "allowed"),
    [(None, "'none'"), ("/events", "'self'"), ("http://127.0.0.1:8000/events?a=1", "http://127.0.0.1:8000")],
)
def test_the_page_may_connect_only_to_its_running_search(live_url: str | None, allowed: str) -> None:
    page = render_page({}, title="x", live_url=live_url)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.endswith(f"connect-src {allowed}")
    assert data_of(page)["live"] == live_url
