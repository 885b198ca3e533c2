"""What Prometheus is told of a search while it runs and when it has ended."""

from __future__ import annotations

import asyncio
import io
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from rstar import logs, progress
from rstar.backends.scripted import ChainWorld
from rstar.config import SearchConfig
from rstar.errors import ConfigError
from rstar.evaluation import SearchCounts
from rstar.metrics import serve
from rstar.progress import SearchProgress
from rstar.search import SearchResult, SearchTask, search_trees
from tests.rstar.fakes import TextJudge
from tests.rstar.worlds import engines, new_tree

Samples = dict[tuple[str, tuple[str, ...]], float]


def scrape(url: str) -> Samples:
    """Value by metric and label values, in the order of the labels' names."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def search(label: str, url: str) -> tuple[SearchProgress, list[Samples]]:
    """Search eight trees and scrape after each."""
    world = ChainWorld(num_operations=2)
    problems = world.problems(8)
    counts = SearchCounts()
    shown = SearchProgress(label, len(problems), counts, console=Console(file=io.StringIO()))
    tasks = [
        SearchTask(tree=new_tree(p.question, problem_id=p.id), judge=TextJudge(p.answer)) for p in problems
    ]
    config = SearchConfig(num_rollouts=4, num_candidates=4)

    async def run() -> list[Samples]:
        scraped = []
        with shown:
            async for result in search_trees(
                tasks, engines(world.policy()), config, max_trees_in_flight=3, counts=counts
            ):
                shown.add(result, "chain")
                scraped.append(await asyncio.to_thread(scrape, url))
            shown.add(SearchResult(tree=tasks[0].tree, seconds=0.0, fault="BackendError: gone"), "chain")
        return scraped

    return shown, asyncio.run(run())


def test_the_numbers_of_a_search_are_those_of_its_progress_while_it_runs_and_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SHOWN", {})
    with serve("0") as url:
        shown, scraped = search("round 1 search", url)
        after = scrape(url)
    label = "round 1 search"
    done = [samples["rstar_search_trees", (label, "done")] for samples in scraped]
    assert done == list(range(1, 9))
    in_flight = [samples["rstar_search_trees", (label, "in_flight")] for samples in scraped]
    assert max(in_flight) == 3
    assert in_flight[-1] == 0
    numbers = shown.numbers()
    assert after["rstar_search_trees", (label, "all")] == 8
    assert after["rstar_search_trees", (label, "parked")] == 1
    for name in ("rollouts", "nodes", "tokens", "retries"):
        assert after[f"rstar_search_{name}_total", (label,)] == numbers[name]
        values = [samples[f"rstar_search_{name}_total", (label,)] for samples in scraped]
        assert values == sorted(values)
    by_verdict = {k[1][1]: v for k, v in after.items() if k[0] == "rstar_search_executions_total"}
    assert by_verdict == numbers["executions_by_verdict"]
    assert after["rstar_search_coverage_ratio", ("chain", label)] == numbers["coverage"]
    assert after["rstar_events_total", ("tree parked", "warning")] == 1
    assert after["process_resident_memory_bytes", ()] > 0


def test_stages_are_shown_while_they_run_and_events_are_counted() -> None:
    events = logs.events("rstar.tests")
    with logs.write_to(None), serve("127.0.0.1:0") as url:
        events.info("stage begun", stage="round1/search")
        events.info("stage begun", stage="round1/policy")
        events.info("stage done", stage="round1/search")
        samples = scrape(url)
    stages = [labels for name, labels in samples if name == "rstar_stage_running"]
    assert stages == [("round1/policy",)]
    assert samples["rstar_events_total", ("stage begun", "info")] == 2


@pytest.mark.parametrize("address", ["", "port", "127.0.0.1:", "127.0.0.1:http", "70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="it must be a port, or HOST:PORT"), serve(address):
        pass


def test_an_address_that_is_taken_is_refused_and_one_that_was_left_can_be_used_again() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(str(port)), pytest.raises(ConfigError, match="cannot listen there"), serve(str(port)):
        pass
    with serve(str(port)) as url:
        assert url == f"http://127.0.0.1:{port}/metrics"
