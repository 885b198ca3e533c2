"""Trees as a page for the browser: one file that needs nothing else, or one that follows a running search.

    page = render_page({"round 1": early, "round 4": late}, title="train-17")

See docs/viewer.md. The script in the page, `viewer.js`, is built from `frontend/` by `make viewer`.
"""

from rstar.viewer.live import LiveTree
from rstar.viewer.page import render_page

__all__ = ["LiveTree", "render_page"]
