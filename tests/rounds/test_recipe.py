"""Recipes are complete, checked at once, and wrong ones give one clear line."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from rounds.recipe import RECIPES, load, plain
from rstar.config import Guidance, build
from rstar.errors import ConfigError

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_survives_being_printed(name: str) -> None:
    recipe = load(name, 1)
    assert recipe.name == name
    assert build(type(recipe), plain(recipe)) == recipe


def test_round_1_of_the_embedded_recipe_searches_as_the_paper_does() -> None:
    search = load("embedded", 1).search
    assert (search.num_rollouts, search.num_candidates) == (8, 5)
    assert search.guidance is Guidance.TERMINAL
    assert search.c_uct == 2
    assert search.max_depth == 16
    assert search.unvisited_score == math.inf


def test_settings_are_the_recipes_then_the_rounds_then_the_users(tmp_path: Path) -> None:
    parent = tmp_path / "parent.yaml"
    parent.write_text(
        "problems: {train: {curriculum: {easy: 1}}, evaluation: {curriculum: {easy: 2}}}\n"
        "search: {num_rollouts: 3, c_uct: 1.5}\nrounds: {1: {search: {num_candidates: 7}}}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: parent.yaml\nsearch: {num_rollouts: 4}\nproblems: {train: {files: [x.jsonl]}}\n"
    )
    recipe = load(child, 1, ["search.max_depth=9"])
    assert recipe.name == "child"
    assert (recipe.search.num_rollouts, recipe.search.c_uct) == (4, 1.5)
    assert (recipe.search.num_candidates, recipe.search.max_depth) == (7, 9)
    assert recipe.problems.train.curriculum == {}, "a pool is replaced whole"
    assert recipe.problems.evaluation.curriculum == {"easy": 2}
    assert load(child, 1, ["search.num_candidates=2"]).search.num_candidates == 2


def test_stage_seeds_differ_by_stage_and_follow_the_recipes_seed() -> None:
    one, two = load("embedded", 1), load("embedded", 1, ["seed=1"])
    assert len({one.stage_seed("search"), one.stage_seed("sft"), two.stage_seed("search")}) == 3


POOLS = "problems: {train: {curriculum: {easy: 1}}, evaluation: {curriculum: {easy: 1}}}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- 1\n", r"^bad.yaml: a recipe is a mapping of sections"),
        ("a: [\n", r"^bad.yaml, line 2: not valid YAML"),
        (POOLS + "serach: {}\n", r"^bad.yaml: unknown key serach; did you mean search\?$"),
        (POOLS + "search: {rollouts: 8}\n", r"^bad.yaml: unknown key search.rollouts; did you mean num_rollouts"),
        (POOLS + "search: {num_rollouts: many}\n", r"^bad.yaml: search.num_rollouts is 'many'; input should be a valid int"),
        (POOLS + "search: {num_rollouts: 0}\n", r"^bad.yaml: search.num_rollouts is 0; it must be at least 1$"),
        (POOLS + "search: 3\n", r"^bad.yaml: search is 3; it must be a section"),
        ("search: {}\n", r"^bad.yaml: problems is missing$"),
        (POOLS + "prompt_format: chatty\n", r"^bad.yaml: prompt_format is 'chatty'; it must be one of bare, rstar"),
        (POOLS + "rounds: {9: {}}\n", r"^bad.yaml: rounds.9 is no round"),
        (POOLS + "rounds: {1: 3}\n", r"^bad.yaml: rounds.1 is 3; it must be a section"),
        (POOLS + "rounds: 4\n", r"^bad.yaml: rounds is 4; it must be a section"),
        (POOLS + "round_index: 2\n", r"^bad.yaml: round_index is not set in a recipe"),
        (POOLS + "extends: nobody\n", r"^no recipe 'nobody'; shipped recipes: "),
        (POOLS + "extends: bad.yaml\n", r"^bad.yaml extends itself"),
        (POOLS + "sandbox: {cpu_s: 0}\n", r"^bad.yaml: sandbox\S* .*too small"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_one_line_that_says_where_and_what_would_be_right(
    tmp_path: Path, text: str, line: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=line) as caught:
        load(path, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "index", "settings", "line"),
    [
        ("embeded", 1, [], r"^no recipe 'embeded'; did you mean embedded\?"),
        ("no/such.yaml", 1, [], r"^no recipe file at no/such.yaml$"),
        ("embedded", 7, [], r"^there is no round 7; rounds are 1 to"),
        ("embedded", 1, ["search.num_rollouts"], r"is no setting; write key=value"),
        ("embedded", 1, ["search.num_rollouts=[1"], r"not valid YAML"),
        ("embedded", 1, ["seed.x=1"], r"seed is a value, not a section"),
        ("embedded", 1, ["sft.learning_rate=-1"], r"sft.learning_rate is -1"),
    ],
)
def test_a_wrong_request_is_one_line(recipe: str, index: int, settings: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        load(recipe, index, settings)
    assert "\n" not in str(caught.value)


def test_a_recipe_is_loaded_and_printed_without_any_model_code() -> None:
    program = (
        "import sys; from rounds.recipe import load, plain; plain(load('embedded', 1));"
        "print(sorted({'torch', 'transformers', 'pandas', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
