"""The documents: every block of code runs, every link of the site leads somewhere, every quoted message exists."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.blocks import Block, blocks_of, run_blocks
from tests.world import REPOSITORY, make_round, make_world

DOCUMENTS = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(
    path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").rglob("*.md")
)]  # fmt: skip
REASONS = {
    "needs a GPU",
    "needs a cluster",
    "needs a server",
    "needs the network",
    "takes minutes",
}
"""Why a block may be left out."""


def blocks(document: Path) -> list[Block]:
    return blocks_of(document, (REPOSITORY / document).read_text(encoding="utf-8"))


BLOCKS = {document: found for document in DOCUMENTS if (found := blocks(document))}
FAST = [document for document, found in BLOCKS.items() if any(not (b.slow or b.not_run) for b in found)]
SLOW = [document for document, found in BLOCKS.items() if any(block.slow for block in found)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents take for granted, made once."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    make_round(folder / "runs" / "embedded")
    return folder


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The world as the current folder, without what other documents made in it."""
    for made in ("trees", "evaluation", "samples"):
        shutil.rmtree(world / made, ignore_errors=True)
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("document", FAST, ids=str)
def test_every_quick_block_of_the_document_runs(document: Path, here: Path) -> None:
    run_blocks([block for block in BLOCKS[document] if not block.slow], here)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("document", SLOW, ids=str)
def test_every_block_of_the_document_runs(document: Path, here: Path) -> None:
    run_blocks(BLOCKS[document], here)


def test_the_quick_start_in_the_solver_says_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    tried = doctest.testmod(importlib.import_module("rstar.solver"))
    assert (tried.failed, tried.attempted) == (0, 5)


def test_a_block_is_left_out_only_for_a_known_reason_and_few_are() -> None:
    everything = [block for found in BLOCKS.values() for block in found]
    left_out = [block for block in everything if block.not_run]
    assert not [f"{block.place}: {block.not_run}" for block in left_out if block.not_run not in REASONS]
    assert not REASONS - {block.not_run for block in left_out}, "reasons that nobody gives"
    assert len(left_out) <= len(everything) / 3, f"{len(left_out)} of {len(everything)} blocks are not run"


def test_marks_hidden_code_and_lines_of_a_document_are_read() -> None:
    text = "a\n\n<!-- not run: needs a GPU -->\n```bash\nx\n```\n<!-- python\ny = 1\n-->\n<!-- slow -->\n```python\ny\n```\n```text\nz\n```\n"
    found = [(b.line, b.language, b.code, b.not_run, b.slow) for b in blocks_of(Path("d.md"), text)]
    assert found == [
        (5, "bash", "x\n", "needs a GPU", False), (8, "python", "y = 1\n", "", False), (12, "python", "y\n", "", True),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown mark"):
        blocks_of(Path("d.md"), "<!-- skip -->\n```bash\n```\n")


def test_every_message_of_the_troubleshooting_table_is_one_of_the_code() -> None:
    sources = [
        path for name in ("rstar", "rounds", "ppm", "policy") for path in (REPOSITORY / name).rglob("*.py")
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*sources, REPOSITORY / "Makefile"])
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # a text over several lines
    table = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        message
        for line in table.splitlines()
        if line.startswith("| `")
        for message in re.findall("`(.+?)`", line.split(" | ")[0])
    ]
    parts = [part for message in quoted for part in re.split("…", message)]
    wanted = [part for part in (part.strip(" :;,") for part in parts) if len(part) > 3]
    assert len(wanted) > 30
    assert not [part for part in wanted if part not in text]


def test_pictures_are_what_the_script_draws() -> None:
    from docs.scripts.pictures import IMAGES, PICTURES

    assert not [
        name
        for name, draw in PICTURES.items()
        if (IMAGES / f"{name}.svg").read_text(encoding="utf-8") != draw()
    ]


def test_links_between_files_become_links_between_pages() -> None:
    hooks = pytest.importorskip("docs.scripts.hooks", reason="MkDocs is not installed")
    text = "[a](docs/search.md) [b](../x.md#y) [c](https://e.org/z.md) [d](CHANGELOG.md)"
    assert hooks.relink(text, origin="CONTRIBUTING.md", place="contributing.md") == (
        "[a](search.md) [b](../x.md#y) [c](https://e.org/z.md) [d](changelog.md)"
    )
    assert (
        hooks.relink("[a](../../README.md)", origin="docs/howto/model.md", place="howto/model.md")
        == "[a](../index.md)"
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_for_nothing_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(DOCUMENTS) - 2
    loaded = re.compile(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="?https?://')
    assert not [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))]
