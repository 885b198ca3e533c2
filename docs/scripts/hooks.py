"""What MkDocs calls while it builds the site: pages that are made and not written, and links that lead out of docs/.

The references of the command line and of the settings are made from the code (`command_line`, `settings`). Some files at the
top of the repository are pages too; a link to one of them, as it works on a forge, leads to its page.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # the code that is documented is the one beside this file

from docs.scripts import command_line, settings  # noqa: E402

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "figures.md",
    "rounds/base/README.md": "base-model.md",
    "README.md": "index.md",
}
"""Files outside of docs/, and the pages that they are. The front page has a text of its own."""
MADE = {"reference/command-line.md": command_line.page, "reference/settings.md": settings.page}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    for source, target in ELSEWHERE.items():
        if target != "index.md":
            text = _FRONT_MATTER.sub("", (REPOSITORY / source).read_text(encoding="utf-8"))
            files.append(File.generated(config, target, content=text))
    for target, make in MADE.items():
        files.append(File.generated(config, target, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between files of the repository to their pages."""
    place = page.file.src_uri
    origin = {target: source for source, target in ELSEWHERE.items() if target != "index.md"}.get(
        place, f"docs/{place}"
    )
    return relink(markdown, origin=origin, place=place)


def relink(markdown: str, *, origin: str, place: str) -> str:
    """`markdown` of the file `origin` of the repository with links that suit the page `place` of the site."""

    def lead(link: re.Match[str]) -> str:
        before, path, after = link.groups()
        if "://" in path or path.startswith(("mailto:", "/")):
            return link[0]
        meant = os.path.normpath(os.path.join(os.path.dirname(origin), path))
        target = ELSEWHERE.get(meant) or meant.removeprefix("docs/")
        if target == meant:  # it lies outside of docs/ and is no page
            return link[0]
        return f"{before}{os.path.relpath(target, os.path.dirname(place) or '.')}{after}"

    return _LINK.sub(lead, markdown)
