"""What the report says, from facts made up in the test."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest

from policy.statistics import ALL_LEVELS
from rounds import published
from rounds.page import Cards, Figure, Heading, Page, Table, to_html, to_markdown
from rounds.report import report
from rounds.report.ablations import ablations_section
from rounds.report.cost import cost_section, duration
from rounds.report.evaluation import fair_budget, scaling_section, system_section
from rounds.report.facts import SELECTION, RunFacts, change, coverage, listed, ordered, verdict
from rounds.report.learning import coverage_section, policy_section
from rounds.report.lineage import data_hash, lineage_section
from rounds.report.preference import preference_section
from rounds.report.samples import best_trajectory, choose_tree, choose_unsolved
from rstar.problems import Problem
from rstar.tree import Tree
from tests.rounds.run_facts import HELD_OUT, SEARCHED, TRAINING, manifest, run_facts, sample_tree

SECTIONS = [
    "What search found",
    "What the policy learned",
    "The preference model",
    "The full system",
    "Search against sampling, at equal tokens",
    "What the parts are worth",
    "How the search went",
    "What it cost",
    "A tree to look at",
    "Where it came from",
]


@pytest.fixture(scope="module")
def full() -> RunFacts:
    return run_facts()


def text(blocks: list[Any]) -> str:
    return to_markdown(Page(title="t", subtitle="s", blocks=blocks))


def rows(blocks: list[Any], first_column: str) -> dict[str, list[str]]:
    """The rows of the table with that head, by their first cell."""
    (table,) = [block for block in blocks if isinstance(block, Table) and block.header[0] == first_column]
    return {row[0]: list(row[1:]) for row in table.rows}


@pytest.mark.parametrize(
    ("last", "evaluated"), [(1, False), (1, True), (2, False), (2, True), (3, True), (4, False)]
)
def test_a_report_after_any_round_has_every_section_whatever_was_evaluated(
    last: int, evaluated: bool
) -> None:
    page = report(run_facts(last, evaluated=evaluated, ablated=False))
    assert [
        block.text for block in page.blocks if isinstance(block, Heading) and block.level == 2
    ] == SECTIONS
    for written in (to_markdown(page), to_html(page)):
        assert not re.search(r"\b(None|nan|inf)\b", written)
    figures = [block.name for block in page.blocks if isinstance(block, Figure)]
    assert len(figures) == len(set(figures))
    assert ("system" in figures, "ppm-by-round" in figures, "scaling" in figures) == (
        evaluated,
        evaluated,
        False,
    )


def test_the_opening_cards_are_greedy_gain_by_level_coverage_by_round_and_the_full_system(
    full: RunFacts,
) -> None:
    (cards,) = [block.cards for block in report(full).blocks if isinstance(block, Cards)]
    base, last = full.policy(0), full.policy(4)
    for (figure, what), level in zip(cards, ["easy", "medium", "olympiad", ALL_LEVELS], strict=False):
        assert figure == f"{base[level].rate:.0%} → {last[level].rate:.0%}"
        assert what.startswith("all levels" if level == ALL_LEVELS else level)
    assert cards[4][0] == "27% → 84%"
    alone, system = full.policy(4, searched=True)[ALL_LEVELS], full.system(4)[ALL_LEVELS][SELECTION]
    assert cards[5][0] == f"{alone.rate:.0%} → {system['accuracy']:.0%}", "on the same problems"


def test_coverage_stands_beside_the_papers_for_every_round_and_level(full: RunFacts) -> None:
    table = rows(coverage_section(full), "training problems with a verified solution")
    assert len(table) == 8
    assert table["round 4, paper"] == ["98.2%", "94.5%", "80.6%", "90.2%"]
    assert table["round 1, here"][:3] == ["95.0%", "70.0%", "12.0%"]
    solved = 57 + 84 + 72
    assert table["round 1, here"][3] == f"{solved / sum(TRAINING.values()):.1%}"


def test_the_policy_table_has_every_round_with_its_interval_and_the_papers(full: RunFacts) -> None:
    blocks = policy_section(full)
    table = rows(blocks, "pass@1 (95% interval)")
    assert list(table) == ["base", "r1", "r2", "r3", "r4"]
    assert [row[-1] for row in table.values()] == ["58.8%", "69.6%", "73.6%", "75.8%", "78.4%"]
    gains = rows(blocks, "r4 over base")
    assert gains["olympiad"][1] == "ahead"


def test_pairs_are_counted_by_round_depth_and_reason(full: RunFacts) -> None:
    blocks = preference_section(full)
    assert rows(blocks, "step pairs by depth")["round 2"] == ["1,800", "600", "240", "100", "700"]
    assert rows(blocks, "left out")["round 2"] == ["120", "150", "14", "523", "210"]
    (accuracy,) = [b for b in blocks if isinstance(b, Table) and "held out" in b.header]
    assert [row[3] for row in accuracy.rows] == ["68.0%", "76.0%", "84.0%", "92.0%"]


def test_preference_models_are_compared_with_the_policy_of_round_1(full: RunFacts) -> None:
    blocks = preference_section(full)
    (table,) = [b for b in blocks if isinstance(b, Table) and b.rows[0][0] == "r1 + PPM r1"]
    assert [row[-1] for row in table.rows] == ["75.2%", "84.1%", "85.2%", "87.0%"]
    for index, row in enumerate(table.rows, start=1):
        stage = "system" if index == 1 else "ppm_evaluation"
        accuracy = full.summary(f"round{index}/{stage}")["accuracy"][ALL_LEVELS][SELECTION]["accuracy"]
        assert row[4].startswith(f"{accuracy:.1%}")


def test_the_policy_alone_stands_beside_the_system_on_the_problems_that_the_system_searched(
    full: RunFacts,
) -> None:
    table = rows(system_section(full), "accuracy (95% interval)")
    assert list(table)[-2:] == ["r4 + PPM r4", "r4 alone"]
    searched = [
        solved for name, (_, solved) in full.outcomes["round4/evaluation"].items() if name in full.searched
    ]
    assert len(searched) == sum(SEARCHED.values()) < sum(HELD_OUT.values())
    assert table["r4 alone"][3].startswith(f"{sum(searched) / len(searched):.1%}")


def row(num_trees: int, *, exhausted: bool, greedy_exhausted: bool = True) -> dict[str, Any]:
    return {
        "num_trees": num_trees,
        "baselines": {"majority": {"exhausted": exhausted}, "greedy": {"exhausted": greedy_exhausted}},
    }


def test_the_verdict_is_at_the_largest_budget_that_the_samples_can_spend() -> None:
    fair = [row(1, exhausted=False), row(2, exhausted=False), row(4, exhausted=True)]
    assert fair_budget(fair)["num_trees"] == 2
    assert fair_budget(fair[2:])["num_trees"] == 4, "the first, where none is fair"


def test_every_level_has_a_verdict_on_every_baseline_and_unfair_budgets_are_marked(full: RunFacts) -> None:
    blocks = scaling_section(full)
    (table,) = [b for b in blocks if isinstance(b, Table) and b.header[0] == "level"]
    assert [cells[:2] for cells in table.rows[:3]] == [["easy", "1"], ["easy", "2"], ["easy", "4"]]
    stored: Mapping[str, Any] = full.scaling()["equal_tokens"]
    for level, trees, *_, over_majority in [(r[0], r[1], r[5]) for r in table.rows]:
        (found,) = [one for one in stored[level][SELECTION] if str(one["num_trees"]) == trees]
        baseline = found["baselines"]["majority"]
        assert over_majority.endswith(verdict(baseline["difference_low"], baseline["difference_high"]))
        assert ("†" in over_majority) == baseline["exhausted"]
    written = text(blocks)
    verdicts = rows(blocks, "search is")
    assert list(verdicts) == ["easy", "medium", "olympiad", "all levels"]
    for said in verdicts.values():
        assert sum(len(cell.split("; ")) for cell in said if cell != "–") == 6, "each baseline once"
    assert ("fewer: no comparison" in written) == any("†" in cell for cells in table.rows for cell in cells)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "ahead"),
        (-0.2, -0.01, "behind"),
        (-0.1, 0.1, "not told apart"),
        (0.0, 0.1, "not told apart"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(low: float, high: float, expected: str) -> None:
    assert verdict(low, high) == expected


def test_ablations_stand_beside_the_papers_with_their_differences(full: RunFacts) -> None:
    blocks = ablations_section(full)
    assert [cells[-1] for cells in rows(blocks, "trained on").values()] == ["72.4%", "73.4%", "78.4%"]
    values = rows(blocks, "value model")
    assert [cells[-1] for cells in values.values()] == ["82.6%", "88.2%", "89.4%"]
    stored = full.summary("ablations/scaling")["value_models"][ALL_LEVELS]
    assert values["ORM, best of N"][3].startswith(f"{stored['ppm_over_orm']['accuracy']:.1%}")
    of_sets, of_models = [
        b for b in blocks if isinstance(b, Table) and b.header[0] == "points (95% interval)"
    ]
    assert [cells[4].partition(") ")[2] for cells in of_sets.rows] == ["ahead", "not told apart"]
    assert [cells[0] for cells in of_models.rows] == ["PPM over PQM", "PQM over ORM", "PPM over ORM"]
    assert of_models.rows[1][4].startswith(f"{100 * stored['pqm_over_orm']['difference']:+.1f}")
    assert "can be neither shown nor refuted" in text(blocks)


def test_where_nothing_was_ablated_one_line_says_how_to(full: RunFacts) -> None:
    manifests = {name: one for name, one in full.manifests.items() if not name.startswith("ablations/")}
    without = dataclasses.replace(
        full, command='make round4 RECIPE=mine.yaml SET="seed=2"', manifests=manifests
    )
    _, line = ablations_section(without)
    assert '`make ablations LAST=4 RECIPE=mine.yaml SET="seed=2"`' in text([line])


def test_with_ablations_the_samples_are_selected_by_every_value_model(full: RunFacts) -> None:
    (table,) = [b for b in scaling_section(full) if isinstance(b, Table) and b.header[0] == "level"]
    assert [head for head in table.header if "best of N" in head] == [
        "over best of N by ORM", "over best of N by PQM", "over best of N by PPM",
    ]  # fmt: skip


def test_cost_adds_up_over_the_stages_and_joules_that_cannot_be_read_are_no_zero() -> None:
    facts = run_facts(1, evaluated=False, ablated=False)
    blocks = cost_section(facts)
    table = rows(blocks, "stage")
    assert list(table) == list(facts.manifests)
    assert table["round1/evaluation"][3] == "–"
    assert table["round1/search"][3] == "900"
    seconds = sum(one.seconds for one in facts.manifests.values())
    assert duration(seconds) in text(blocks)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(9, "9 seconds"), (119, "119 seconds"), (600, "10 minutes"), (7200, "2.0 hours")],
)
def test_durations_are_written_in_the_unit_of_their_size(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_every_model_is_traced_to_its_data_seed_and_weights(full: RunFacts) -> None:
    blocks = lineage_section(full)
    models = rows(blocks, "model")
    assert list(models) == ["base", *(name for i in (1, 2, 3, 4) for name in (f"r{i}", f"PPM r{i}"))]
    for index in (1, 2, 3, 4):
        assert models[f"r{index}"][0] == "base"
        assert models[f"PPM r{index}"][0] == f"r{index}"
        assert models[f"r{index}"][2] == data_hash([full.manifests[f"round{index}/sft_set"]])
        assert models[f"r{index}"][4] == str(full.manifests[f"round{index}/policy"].seed)
    assert "0 are in both" in text(blocks)


def test_pairs_of_earlier_rounds_that_a_model_learned_from_are_in_its_lineage(full: RunFacts) -> None:
    ppm = full.manifests["round3/ppm"]
    learned = dataclasses.replace(ppm, inputs={**ppm.inputs, "pairs1": "1", "pairs2": "2"})
    models = rows(
        lineage_section(dataclasses.replace(full, manifests={**full.manifests, "round3/ppm": learned})),
        "model",
    )
    assert models["PPM r2"][1].endswith("pairs of round 2's search")
    assert (
        models["PPM r3"][1] == f"{(1 + 2 + 3) * 1_370 + 3 * 700:,} pairs of the searches of rounds 1, 2 and 3"
    )


def test_the_hash_of_data_is_of_its_files_and_not_of_what_passes() -> None:
    one = manifest("x", {})
    noted = dataclasses.replace(one, outputs={**one.outputs, "progress.json": "1", "store/journal/lock": "2"})
    changed = dataclasses.replace(one, outputs={**one.outputs, "store/part.parquet": "3"})
    assert data_hash([one]) == data_hash([noted]) != data_hash([changed])


def test_the_tree_that_is_shown_has_right_and_wrong_answers_and_a_size_that_can_be_read() -> None:
    mixed, right_only = sample_tree(), sample_tree()
    for node in right_only.nodes:
        node.verified = True if node.verified is not None else None
    unsolved = sample_tree()
    for node in unsolved.nodes:
        node.verified = False if node.verified is not None else None
    assert choose_tree([right_only, unsolved, mixed]) is mixed
    assert choose_tree([unsolved, Tree(problem_id="p", question="q")]) is None
    best = best_trajectory(mixed)
    assert best.verified
    assert best.mean_q == max(0.4 + 0.9 + 1.0, 0.4 + 0.0 + 0.5 + 1.0) / 3


def test_unsolved_problems_are_few_random_ones_and_the_same_for_a_seed() -> None:
    problems = [Problem(id=str(at), question="q", answer="1") for at in range(20)]
    shown = choose_unsolved(problems, {"3"}, 0)
    assert len({p.id for p in shown}) == 5
    assert "3" not in {p.id for p in shown}
    assert shown == choose_unsolved(problems[::-1], {"3"}, 0)
    assert choose_unsolved(problems[:2], {"0"}, 0) == [problems[1]]


def test_levels_stand_in_their_order_and_all_levels_last() -> None:
    assert ordered(["all", "olympiad", "amc", "easy"]) == ["easy", "olympiad", "amc", "all"]
    assert list(coverage({"coverage": {level: {"problems": 2, "solved": 1} for level in ("x", "easy")}})) == [
        "easy",
        "x",
        "all",
    ]


def test_numbers_are_put_into_words() -> None:
    assert change(0.1, 0.2) == "rose from 10.0% to 20.0%"
    assert change(0.2, 0.1) == "fell from 20.0% to 10.0%"
    assert change(0.5, 0.50001) == "stayed at 50.0%"
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_the_papers_figures_are_shares_that_rise_over_the_rounds_as_printed() -> None:
    for table in (published.POLICY_MATH, published.PPM_MATH, published.SYSTEM_MATH):
        values = list(table.values())
        assert values == sorted(values)
        assert all(0 < value < 1 for value in values)
    for level in ("all", *TRAINING):
        assert [published.COVERAGE[i][level] for i in (1, 2, 3, 4)] == sorted(
            published.COVERAGE[i][level] for i in (1, 2, 3, 4)
        )
