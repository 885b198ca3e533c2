"""The page: a title, trees as data, and one script. Nothing else is fetched, and nothing else may run.

What models wrote is data that the script shows as text. The page's content policy allows only this one script, by its
hash, and no connection but to the address of a running search.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rstar.tree import Tree
from rstar.viewer.columns import plain_tree, to_json


def render_page(trees: Mapping[str, Tree], *, title: str, live_url: str | None = None) -> str:
    """An HTML page with the trees side by side, each under its label.

    With `live_url` the page also listens there for server-sent events (`rstar.viewer.live`), which change these trees and
    may bring further ones. Relative addresses count from where the page is served.
    """
    data = {"trees": [plain_tree(tree, label) for label, tree in trees.items()], "live": live_url}
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src {_origin(live_url)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n</head>\n<body>\n"
        f'<script type="application/json" id="data">{to_json(data)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _origin(live_url: str | None) -> str:
    if live_url is None:
        return "'none'"
    parts = urlsplit(live_url)
    return html.escape(f"{parts.scheme}://{parts.netloc}") if parts.netloc else "'self'"


@functools.cache
def _script() -> str:
    return Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")
