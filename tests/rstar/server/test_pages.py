"""Trees to look at: a page for every search, which follows it while it runs."""

from __future__ import annotations

import concurrent.futures
import json
import re
from pathlib import Path

import httpx2
import pytest

from rstar.server.trees import Trees
from tests.rounds.browser import Browser, find_chromium
from tests.rstar.server.serving import WORLD, GatedPolicy, chat, client, get, serving, until

QUESTION = WORLD.problems(1)[0].question


def test_a_running_search_is_listed_and_its_events_bring_the_whole_tree() -> None:
    policy = GatedPolicy(WORLD)
    with serving(policy) as url, concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client(url).chat.completions.create, **chat(QUESTION))
        until(lambda: policy.asked > 0)
        (link,) = re.findall(r'href="(trees/[^"]+)"', get(f"{url}/").text)
        page = get(f"{url}/{link}")
        assert QUESTION in page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        with httpx2.stream("GET", f"{url}/{link}/events", timeout=250) as response:
            policy.open = True
            events = "".join(response.iter_text()).strip().split("\n\n")
        found = answer.result()
        assert link == f"trees/{found.id}"
        assert events[-1].startswith("event: end")
        nodes = set()
        for event in events[:-1]:
            assert event.startswith("event: tree\ndata: ")
            nodes |= {*json.loads(event.partition("data: ")[2])["tree"]["nodes"]["id"]}
        searched = httpx2.post(f"{url}/v1/search", json={"question": QUESTION}, timeout=250).json()
        assert nodes == {*range(len(searched["tree"]["nodes"]))}
        assert f"{link}/events" not in get(f"{url}/{link}").text  # it has ended
        assert get(f"{url}/trees/none").json()["error"]["code"] == "search_not_found"
        assert "of the vote" in get(f"{url}/").text


def test_the_last_searches_are_kept_and_those_that_run() -> None:
    trees = Trees(kept=2)
    running = trees.begin("running", "0?")
    for name in ("a", "b", "c"):
        trees.end(trees.begin(name, f"<{name}>?"))
    assert [name for name in ("running", "a", "b", "c") if trees.get(name)] == ["running", "b", "c"]
    assert "&lt;b&gt;?" in trees.page()
    trees.end(running)
    assert [name for name in ("running", "a", "b", "c") if trees.get(name)] == ["b", "c"]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_a_browser_sees_the_tree_grow(tmp_path: Path) -> None:
    policy = GatedPolicy(WORLD)
    program = find_chromium()
    assert program is not None
    with (
        serving(policy) as url,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        Browser(program, tmp_path) as browser,
    ):
        answer = pool.submit(client(url).chat.completions.create, **chat(QUESTION))
        until(lambda: policy.asked > 0)
        (link,) = re.findall(r'href="(trees/[^"]+)"', get(f"{url}/").text)
        browser.open(f"{url}/{link}", width=1200)
        assert browser.evaluate("viewer.state().panes[0].shown.length") == 1
        policy.open = True
        searched = answer.result()
        assert searched.choices
        browser.wait("viewer.state().panes[0].shown.length > 5")
        assert browser.errors() == []
