"""The page in a real browser: what is clicked, typed and replayed is what is shown; nothing is fetched, nothing complains."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.forest import grow_tree
from rstar.config import Guidance
from rstar.trajectories import trajectories
from rstar.tree import ROOT, Tree
from rstar.viewer import LiveTree, render_page
from rstar.viewer.live import END
from tests.rounds.browser import Browser, find_chromium
from tests.rstar.viewer.test_page import HOSTILE
from tests.rstar.viewer.trees import NUM_ROLLOUTS, searched

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        browser.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}]
        )
        yield browser  # fmt: skip
        assert browser.errors() == []


def show(browser: Browser, folder: Path, *trees: Tree, width: int = 1440) -> Path:
    """Open a page of the trees and wait until the first is drawn."""
    page = folder / "page.html"
    page.write_text(
        render_page({f"tree {at}": tree for at, tree in enumerate(trees)}, title="trees"), "utf-8"
    )
    browser.open(page, width=width)
    browser.wait("performance.getEntriesByName('drawn').length")
    return page


def state(browser: Browser) -> dict[str, Any]:
    found: dict[str, Any] = browser.evaluate("viewer.state()")
    return found


def click_node(browser: Browser, node_id: int, *, pane: int = 0, times: int = 1) -> None:
    left, top, right, bottom = browser.evaluate(f"viewer.box({pane}, {node_id})")
    browser.click((left + right) / 2, (top + bottom) / 2, times=times)


def set_position(browser: Browser, position: int) -> None:
    browser.evaluate(
        f"(() => {{ const slider = document.querySelector('input[type=range]'); slider.value = {position}; "
        "slider.dispatchEvent(new Event('input')); })()"
    )


def panel(browser: Browser) -> str:
    text: str = browser.evaluate("document.querySelector('aside').innerText")
    return text


def test_the_page_asks_for_nothing_but_itself_and_reports_no_error(browser: Browser, tmp_path: Path) -> None:
    page = show(browser, tmp_path, searched(), searched(guidance=Guidance.TERMINAL))
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []


def test_a_click_shows_code_output_and_figures_of_the_step(browser: Browser, tmp_path: Path) -> None:
    tree = searched()
    show(browser, tmp_path, tree)
    node_id = state(browser)["panes"][0]["best"][0]
    node = tree.nodes[node_id]
    click_node(browser, node_id)
    assert state(browser)["panes"][0]["selected"] == node_id
    assert browser.evaluate("document.querySelector('aside pre.code').textContent").strip() in node.text
    assert browser.evaluate("document.querySelector('aside pre.output').textContent") == node.stdout
    shown = dict(browser.evaluate(
        "[...document.querySelectorAll('aside dl div')].map(e => [e.children[0].textContent, e.children[1].textContent])"
    ))  # fmt: skip
    assert node.initial_value is not None
    signed = [f"{value:+.2f}".replace("-", "−") for value in (node.q_value, node.initial_value)]
    assert [shown["Q"], shown["PPM"]] == signed
    assert shown["N"] == str(node.visit_count)
    browser.press("Escape")
    assert state(browser)["panes"][0]["selected"] is None


def test_a_row_of_the_panel_leads_to_its_node_and_brings_it_into_sight(
    browser: Browser, tmp_path: Path
) -> None:
    tree = searched()
    show(browser, tmp_path, tree)
    browser.press("b")
    best = state(browser)["panes"][0]["best"]
    assert state(browser)["panes"][0]["selected"] == best[-1]
    left, top, right, bottom = browser.evaluate(f"viewer.box(0, {best[-1]})")
    frame = browser.evaluate(
        "(r => [r.left, r.top, r.right, r.bottom])(document.querySelector('.sheet').getBoundingClientRect())"
    )
    assert frame[0] <= left
    assert frame[1] <= top
    assert right <= frame[2]
    assert bottom <= frame[3]
    browser.evaluate(f"document.querySelector('aside .path [data-node=\"{best[0]}\"]').click()")
    assert state(browser)["panes"][0]["selected"] == best[0]


@pytest.mark.parametrize("guidance", Guidance)
def test_the_best_path_is_verified_and_has_the_highest_mean_q(
    browser: Browser, tmp_path: Path, guidance: Guidance
) -> None:
    tree = searched(guidance=guidance)
    show(browser, tmp_path, tree)
    expected = max(trajectories(tree), key=lambda one: (one.verified is True, one.mean_q))
    assert state(browser)["panes"][0]["best"] == list(expected.node_ids)


@pytest.mark.parametrize("guidance", Guidance)
def test_a_replay_shows_at_every_rollout_the_tree_that_the_search_had_then(
    browser: Browser, tmp_path: Path, guidance: Guidance
) -> None:
    last = searched(guidance=guidance).num_rollouts
    show(browser, tmp_path, searched(guidance=guidance))
    for position in range(last + 1):
        set_position(browser, position)
        then = searched(position, guidance=guidance)
        shown = state(browser)["panes"][0]
        assert shown["present"] == list(range(len(then.nodes)))
        for node, (visit_count, value_sum) in zip(then.nodes, shown["statistics"], strict=False):
            assert visit_count == node.visit_count
            assert value_sum == pytest.approx(node.value_sum, abs=1e-4)


def test_space_replays_the_search_to_its_end(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, searched())
    browser.press(" ")
    assert state(browser)["playing"], "at the end it begins anew"
    assert state(browser)["position"] < NUM_ROLLOUTS
    browser.press(" ")
    assert not state(browser)["playing"]
    set_position(browser, NUM_ROLLOUTS - 3)
    browser.press(",")
    browser.press(".")
    assert state(browser)["position"] == NUM_ROLLOUTS - 3
    browser.press(" ")
    browser.wait("!viewer.state().playing")
    assert state(browser)["position"] == NUM_ROLLOUTS


def test_failed_candidates_are_shown_on_demand(browser: Browser, tmp_path: Path) -> None:
    tree = searched()
    show(browser, tmp_path, tree)
    live = [at for at, node in enumerate(tree.nodes) if node.live]
    assert sorted(state(browser)["panes"][0]["shown"]) == live
    browser.press("f")
    assert sorted(state(browser)["panes"][0]["shown"]) == list(range(len(tree.nodes)))
    failed = next(at for at, node in enumerate(tree.nodes) if not node.live)
    browser.press("f")
    browser.evaluate("document.querySelector('input[type=search]').focus()")
    for key in f"#{failed}":
        browser.press(key)
    browser.press("Enter")
    assert state(browser)["panes"][0]["selected"] == failed
    assert tree.nodes[failed].error in panel(browser)


def test_search_finds_steps_and_outputs_and_enter_goes_from_find_to_find(
    browser: Browser, tmp_path: Path
) -> None:
    tree = searched()
    show(browser, tmp_path, tree)
    browser.press("/")
    for key in "STEP 3":
        browser.press(key)
    expected = [at for at, node in enumerate(tree.nodes) if "step 3" in node.stdout]
    assert len(expected) > 1
    assert state(browser)["panes"][0]["hits"] == expected
    for node_id in (*expected, expected[0]):
        browser.press("Enter")
        assert state(browser)["panes"][0]["selected"] == node_id
    browser.press("Escape")
    assert state(browser)["panes"][0]["hits"] is None


def test_arrow_keys_walk_the_tree_and_c_folds_it(browser: Browser, tmp_path: Path) -> None:
    tree = searched()
    show(browser, tmp_path, tree)
    browser.press("ArrowRight")
    best = state(browser)["panes"][0]["best"]
    assert state(browser)["panes"][0]["selected"] == best[0]
    browser.press("ArrowDown")
    sibling = state(browser)["panes"][0]["selected"]
    assert sibling != best[0]
    assert tree.nodes[sibling].depth == 1
    browser.press("ArrowUp")
    browser.press("c")
    shown = state(browser)["panes"][0]["shown"]
    assert best[0] in shown
    assert not set(tree.nodes[best[0]].children) & set(shown)
    browser.press("c")
    browser.press("ArrowLeft")
    assert state(browser)["panes"][0]["selected"] == ROOT
    click_node(browser, best[0], times=2)
    assert not set(tree.nodes[best[0]].children) & set(state(browser)["panes"][0]["shown"])


def test_two_trees_stand_side_by_side_and_share_search_and_replay(browser: Browser, tmp_path: Path) -> None:
    first, second = searched(), searched(guidance=Guidance.TERMINAL)
    show(browser, tmp_path, first, second)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.pane')].map(e => e.getBoundingClientRect().width)"
    )
    assert len(boxes) == 2
    assert min(boxes) > 500
    click_node(browser, ROOT, pane=1)
    assert state(browser)["active"] == 1
    set_position(browser, 2)
    counts = [len(pane["present"]) for pane in state(browser)["panes"]]
    assert counts == [len(searched(2).nodes), len(searched(2, guidance=Guidance.TERMINAL).nodes)]


def test_what_a_model_wrote_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    tree = searched()
    node_id = tree.live_children(ROOT)[0]
    tree.question = tree.nodes[node_id].text = tree.nodes[node_id].stdout = HOSTILE
    show(browser, tmp_path, tree)
    assert browser.evaluate("document.title") == "trees"
    click_node(browser, node_id)
    assert "<script>document.title = 'owned'</script>" in panel(browser)
    assert browser.evaluate("document.querySelectorAll('img').length") == 0


def test_a_tree_of_five_thousand_nodes_opens_and_is_searched_and_moved(
    browser: Browser, tmp_path: Path
) -> None:
    tree = grow_tree("big", 1, num_rollouts=270, max_depth=12, scored=True)
    assert len(tree.nodes) >= 5000
    page = show(browser, tmp_path, tree)
    assert page.stat().st_size < 3_000_000
    before = state(browser)["panes"][0]["transform"]
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=500, y=400, deltaX=0, deltaY=600)
    browser.wait(f"viewer.state().panes[0].transform[1] === {before[1] - 600}")
    browser.press("9")
    browser.press("/")
    for key in "percent":
        browser.press(key)
    browser.press("Enter")
    shown = state(browser)["panes"][0]
    assert shown["selected"] in shown["hits"]
    assert shown["transform"][2] >= 0.7
    assert browser.errors() == []


@pytest.mark.parametrize("width", [1440, 400])
def test_nothing_is_wider_than_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    show(browser, tmp_path, searched(), width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelector('.sheet').getBoundingClientRect().height") > 150


class Search(http.server.BaseHTTPRequestHandler):
    """A server of one page and of the events of a search that goes on rollout by rollout."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header(
            "Content-Type", "text/event-stream" if self.path == "/events" else "text/html; charset=utf-8"
        )
        self.end_headers()
        if self.path != "/events":
            self.wfile.write(render_page({}, title="live", live_url="/events").encode())
            return
        live = LiveTree("live")
        for position in range(NUM_ROLLOUTS + 1):
            self.wfile.write(live.event(searched(position)).encode())
            self.wfile.flush()
        self.wfile.write(END.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Search)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_live_page_follows_a_running_search_to_its_end(browser: Browser, address: str) -> None:
    browser.open(address, width=1440)
    browser.wait("document.querySelector('.state').textContent === 'search ended'")
    tree = searched()
    (shown,) = state(browser)["panes"]
    assert state(browser)["position"] == NUM_ROLLOUTS
    assert shown["present"] == list(range(len(tree.nodes)))
    assert [visit_count for visit_count, _ in shown["statistics"]] == [
        node.visit_count for node in tree.nodes
    ]
    assert {url for url in browser.requests() if not url.endswith("favicon.ico")} == {
        address,
        f"{address}events",
    }


def test_a_page_is_updated_by_calls_in_any_order_of_panes(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render_page({}, title="empty"), "utf-8")
    browser.open(page, width=1440)
    second, first = LiveTree("second", pane=1), LiveTree("first", pane=0)
    for live, position in ((second, 3), (first, 1), (second, NUM_ROLLOUTS)):
        message = live.event(searched(position)).splitlines()[1].removeprefix("data: ")
        browser.evaluate(f"viewer.update({message!r})")
    assert [len(pane["statistics"]) for pane in state(browser)["panes"]] == [
        len(searched().nodes),
        len(searched(1).nodes),
    ]
    again = LiveTree("second", pane=1).event(searched(2)).splitlines()[1].removeprefix("data: ")
    browser.press("b")
    browser.evaluate(f"viewer.update({again!r})")
    assert len(state(browser)["panes"][0]["statistics"]) == len(searched(2).nodes)
    assert browser.errors() == []
