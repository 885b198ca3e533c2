"""The code in Markdown documents: which blocks there are, and how they are run.

Marks stand in HTML comments on the line above a block, where no reader sees them:

    <!-- not run: takes minutes -->     why it is not run
    <!-- slow -->                       run by `make test-all` only

and a comment that begins with `<!-- python` (`<!-- slow python`) holds code that is run but not shown, such as names that a block
needs. The blocks of a page share one name space and one folder, in their order. `await` works at the top level, as in a notebook.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

LANGUAGES = ("python", "bash")
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HIDDEN = re.compile(r"^<!-- (slow )?python\n(.*?)^-->", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (.*?) -->\n\Z")
_NOT_RUN = "not run: "


@dataclass(frozen=True, kw_only=True)
class Block:
    """Code in a document; `line` is its first, counted from 1."""

    document: Path
    line: int
    language: str
    code: str
    not_run: str = ""
    """Why not; empty if it is run."""
    slow: bool = False

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: Path, text: str) -> list[Block]:
    """The blocks of python and bash in a document, hidden ones among them, in their order. Raises ValueError for an unknown mark."""
    found = []
    for match in _FENCE.finditer(text):
        if match[1] in LANGUAGES:
            mark = _MARK.search(text[: match.start()])
            reason, slow = "", False
            if mark is not None:
                if mark[1] == "slow":
                    slow = True
                elif mark[1].startswith(_NOT_RUN):
                    reason = mark[1].removeprefix(_NOT_RUN)
                else:
                    raise ValueError(f"{document}: unknown mark <!-- {mark[1]} -->")
            line = text.count("\n", 0, match.start(2)) + 1
            found.append(
                Block(
                    document=document, line=line, language=match[1], code=match[2], not_run=reason, slow=slow
                )
            )
    for match in _HIDDEN.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(
            Block(document=document, line=line, language="python", code=match[2], slow=bool(match[1]))
        )
    return sorted(found, key=lambda block: block.line)


def run_blocks(blocks: list[Block], folder: Path) -> None:
    """Run the blocks of one document in `folder`, the current one. Raises what a block raises, or AssertionError for a failed command."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with asyncio.Runner() as runner:
        for block in blocks:
            if block.not_run:
                continue
            if block.language == "bash":
                _run_shell(block, folder)
                continue
            outcome = eval(_compiled(block), names)
            if inspect.iscoroutine(outcome):
                runner.run(outcome)


def _compiled(block: Block) -> CodeType:
    """Lines count as in the document, so that a traceback leads there."""
    source = "\n" * (block.line - 1) + block.code
    return compile(
        source, str(block.document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )


def _run_shell(block: Block, folder: Path) -> None:
    binaries = folder / ".venv" / "bin"
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "COLUMNS": "120",
        "BROWSER": "true",
    }
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # this may itself be the child of a `make test`
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=block.code,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.place}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
