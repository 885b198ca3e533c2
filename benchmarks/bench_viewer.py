"""The tree viewer at 5,000 nodes, in a headless Chromium without a GPU: first paint, frames while panning and zooming, size.

    python -m benchmarks.bench_viewer [--nodes 5000] [--seconds 3] [--repeats 5]

Prints Markdown. The tree is made up (`benchmarks.forest`, 8 candidates, scored). First paint is the time from the start of
the navigation until the tree is drawn, median over loads. A frame is one that the browser asked for and the page drew a
new picture in, while wheel events, one per frame, move the tree (panning) or change its size (zooming); the browser asks 60
times a second at most. "Drawing" is the time a frame keeps the page's thread busy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.__main__ import NOTHING_TO_MEASURE
from benchmarks.forest import grow_tree
from benchmarks.tables import markdown
from rstar.tree import Tree
from rstar.viewer import render_page
from tests.rounds.browser import Browser, find_chromium

WIDTH, HEIGHT = 1440, 900

MOTION = """
new Promise((done) => {
  const canvas = document.querySelector('.sheet canvas');
  const began = performance.now(), frames = [], busy = [];
  let last = began;
  function frame(now) {
    frames.push(now - last); last = now;
    busy.push(performance.now() - now);
    const phase = Math.sin((now - began) / 400);
    const options = SETTINGS;
    canvas.dispatchEvent(new WheelEvent('wheel', {bubbles: true, cancelable: true, clientX: 500, clientY: 400, ...options}));
    if (now - began < SECONDS * 1000) requestAnimationFrame(frame); else done({frames: frames.slice(1), busy: busy.slice(1)});
  }
  requestAnimationFrame(frame);
})
"""
PAN = "{deltaX: 12 * phase, deltaY: 45}"
ZOOM = "{deltaY: 25 * phase, ctrlKey: true}"


def tree_of(num_nodes: int) -> Tree:
    """The smallest tree of `benchmarks.forest`, by steps of ten rollouts, that has so many nodes."""
    for num_rollouts in range(10, 10_000, 10):
        tree = grow_tree("big", 1, num_rollouts=num_rollouts, max_depth=12, scored=True)
        if len(tree.nodes) >= num_nodes:
            return tree
    raise AssertionError("a tree grows with its rollouts")


def first_paint(browser: Browser, page: Path) -> float:
    """Seconds from the start of the navigation until the tree is on the screen."""
    browser.open(page, width=WIDTH, height=HEIGHT)
    while not (marks := browser.evaluate("performance.getEntriesByName('drawn').map((m) => m.startTime)")):
        time.sleep(0.02)
    painted = browser.evaluate("performance.getEntriesByType('paint').map((p) => p.startTime)")
    return float(max([*marks, *painted])) / 1000


def motion(browser: Browser, settings: str, seconds: float) -> dict[str, Any]:
    """Milliseconds between frames, and milliseconds of drawing per frame, while wheel events arrive."""
    expression = MOTION.replace("SETTINGS", settings).replace("SECONDS", str(seconds))
    found: dict[str, Any] = browser.evaluate(expression)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    program = find_chromium()
    if program is None:
        print("no Chromium is installed")
        return NOTHING_TO_MEASURE
    tree = tree_of(args.nodes)
    with tempfile.TemporaryDirectory() as folder, Browser(program, Path(folder) / "profile") as browser:
        page = Path(folder) / "tree.html"
        began = time.perf_counter()
        page.write_text(render_page({"tree": tree}, title="tree"), encoding="utf-8")
        rendered = time.perf_counter() - began
        paints = sorted(first_paint(browser, page) for _ in range(args.repeats))
        rows = [
            ("nodes", f"{len(tree.nodes):,}"),
            ("file", f"{page.stat().st_size / 1e6:.2f} MB"),
            ("written in", f"{rendered:.2f} s"),
            ("first paint", f"{statistics.median(paints):.2f} s ({paints[0]:.2f}–{paints[-1]:.2f})"),
        ]
        views = {
            "readable": "viewer.zoomTo(0, 0.8)",
            "small": "viewer.zoomTo(0, 0.3)",
            "whole tree": "viewer.zoomTo(0, 0)",
        }
        for name, go in views.items():
            for what, settings in (("panning", PAN), ("zooming", ZOOM)):
                browser.evaluate(go)
                found = motion(browser, settings, args.seconds)
                frames, busy = sorted(found["frames"]), sorted(found["busy"])
                slowest = frames[int(0.99 * (len(frames) - 1))]
                rows.append(
                    (
                        f"{what}, {name}",
                        f"{1000 * len(frames) / sum(frames):.0f} frames/s; 99 % within {slowest:.0f} ms; "
                        f"drawing {statistics.median(busy):.1f} ms, 99 % within {busy[int(0.99 * (len(busy) - 1))]:.1f} ms",
                    )
                )
    print(markdown("Tree viewer", ("what", "figure"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
