"""Recipes are complete, checked at once, and wrong ones give one clear line."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rounds.artifact import hash_model
from rounds.driver import ExternalInput
from rounds.recipe import LAST_ROUND, RECIPES, load, load_rounds, plain
from rounds.stages import stages_by_round
from rstar.config import Guidance, build
from rstar.engines import Backend
from rstar.errors import ConfigError

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_has_four_rounds_that_survive_being_printed(name: str) -> None:
    recipes = load_rounds(name)
    assert [recipe.round_index for recipe in recipes] == list(range(1, LAST_ROUND + 1))
    for recipe in recipes:
        assert recipe.name == name
        assert build(type(recipe), plain(recipe)) == recipe
        assert load(name, recipe.round_index) == recipe


def test_the_rounds_of_the_long_recipe_are_the_papers() -> None:
    recipes = load_rounds("embedded-long")
    searches = [recipe.search for recipe in recipes]
    terminal, ppm = Guidance.TERMINAL, Guidance.PPM
    assert [search.guidance for search in searches] == [terminal, terminal, ppm, ppm]
    assert [search.num_rollouts for search in searches] == [8, 16, 16, 16]
    assert [search.num_candidates for search in searches] == [5, 8, 8, 16]
    assert [recipe.unsolved.num_rollouts for recipe in recipes] == [(), (32,), (32,), (64, 128)]
    assert [recipe.unsolved.num_trees for recipe in recipes] == [1, 1, 1, 2]
    for recipe in recipes:
        assert recipe.search.c_uct == 2
        assert recipe.search.max_depth == 16
        assert recipe.search.unvisited_score == math.inf
        assert recipe.evaluation.search == recipes[0].evaluation.search, "rounds are evaluated alike"
        assert recipe.mastered_rollouts is None


def test_the_recipe_at_7b_is_the_papers() -> None:
    recipes = load_rounds("rstar-math-7b")
    long = load_rounds("embedded-long")
    for recipe, same in zip(recipes, long, strict=True):
        search, other = recipe.search, same.search
        assert (search.num_rollouts, search.num_candidates) == (other.num_rollouts, other.num_candidates)
        assert search.guidance is other.guidance
        assert recipe.unsolved == same.unsolved
        assert (search.c_uct, search.max_depth, search.sampling.temperature) == (2.0, 16, 1.0)
        assert (recipe.sft.epochs, recipe.sft.learning_rate, recipe.sft.global_batch_size) == (2, 7e-6, 128)
        assert (recipe.ppm.epochs, recipe.ppm.learning_rate, recipe.ppm.global_batch_size) == (1, 7e-6, 512)
        assert (recipe.sft.max_length, recipe.ppm.max_length) == (4096, 4096)
        assert (recipe.pairs.min_q_margin, recipe.pairs.min_edit_distance) == (0.5, 20)
        assert recipe.sft_set.num_per_problem == 2
        inference = recipe.evaluation.search
        assert (inference.num_rollouts, inference.num_candidates, inference.guidance) == (4, 32, Guidance.PPM)
        assert not recipe.earlier_pairs
    assert [recipe.search_model is None for recipe in recipes] == [False, True, True, True]
    engines = [recipe.search_engine for recipe in recipes]
    assert engines[0] is not None
    assert engines[0].backend is Backend.OPENAI
    assert engines[1:] == [None, None, None]
    assert [recipe.searched_format for recipe in recipes] == ["few-shot-chat", "rstar", "rstar", "rstar"]
    assert recipes[0].sft_set.retokenize
    assert recipes[0].pairs.retokenize
    assert not recipes[1].sft_set.retokenize


def test_a_server_searches_one_round_and_what_it_is_asked_for_decides_the_search_alone(
    tmp_path: Path,
) -> None:
    coder = tmp_path / "coder"
    shutil.copytree(RECIPES.parent / "base", coder)

    def searches(*settings: str) -> dict[str, str]:
        server = [f"rounds.1.search_model={coder}", "rounds.1.search_engine.backend=openai"]
        further = [f"rounds.1.search_engine.openai.{setting}" for setting in settings]
        recipes = load_rounds("embedded", [*server, *further])
        assert recipes[1].search_engine is None
        made = {stage.name: stage for part in stages_by_round(recipes) for stage in part}
        assert made["round1/search"].settings["server"]["api"] == (
            "chat" if settings == ("api=chat",) else "completions"
        )
        return {name: made[name].fingerprint for name in ("round1/search", "base/evaluation")}

    plain_search = searches()
    assert searches("outage_s=5", "max_concurrency=3") == plain_search
    other = searches("api=chat")
    assert other["round1/search"] != plain_search["round1/search"]
    assert other["base/evaluation"] == plain_search["base/evaluation"]


def test_a_round_searches_with_a_model_and_a_prompt_of_its_own_and_is_trained_from_the_base(
    tmp_path: Path,
) -> None:
    bootstrap = tmp_path / "coder"
    shutil.copytree(RECIPES.parent / "base", bootstrap)
    (bootstrap / "generation_config.json").write_text("{}")
    recipes = load_rounds("embedded", [f"rounds.1.search_model={bootstrap}", "rounds.1.search_format=rstar"])
    plain_stages = {stage.name: stage for part in stages_by_round(load_rounds("embedded")) for stage in part}
    made = {stage.name: stage for part in stages_by_round(recipes) for stage in part}
    search = made["round1/search"]
    assert search.inputs["model"] == ExternalInput(folder=bootstrap, fingerprint=hash_model(bootstrap))
    assert search.settings["prompt_format"] == "rstar"
    assert made["round1/policy"].inputs["base"] == plain_stages["round1/policy"].inputs["base"]
    assert made["round1/evaluation"].settings["prompt_format"] == "bare"
    assert made["round2/search"].inputs["model"] is made["round1/policy"]
    assert made["round2/search"].settings["prompt_format"] == "bare"
    assert plain_stages["round1/search"].fingerprint != search.fingerprint


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


def test_a_setting_is_for_all_rounds_or_for_the_one_it_names() -> None:
    settings = ["search.c_uct=1", "rounds.3.search.c_uct=3", "rounds.2.unsolved.num_rollouts=[20, 40]"]
    recipes = load_rounds("embedded", settings)
    assert [recipe.search.c_uct for recipe in recipes] == [1, 1, 3, 1]
    assert recipes[1].unsolved.num_rollouts == (20, 40)
    assert [r.search.c_uct for r in load_rounds("embedded", settings[1::-1])] == [1, 1, 1, 1], (
        "the last one counts"
    )


def test_a_recipe_that_names_no_rounds_has_one(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(POOLS)
    assert len(load_rounds(path)) == 1
    with pytest.raises(ConfigError, match=r"^one.yaml has no round 2; its section rounds ends with 1$"):
        load(path, 2)


def test_inference_searches_as_the_recipe_does_but_for_what_the_paper_and_its_section_change(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        POOLS + "search: {max_depth: 9, sampling: {max_step_tokens: 50}}\n"
        "rounds: {1: {search: {max_depth: 7}}, 2: {evaluation: {search: {num_candidates: 3}, num_samples: 5}}}\n"
    )
    first, second = (recipe.evaluation for recipe in load_rounds(path, ["search.c_uct=1"]))
    assert (first.search.guidance, first.search.num_rollouts, first.search.num_candidates) == (
        Guidance.PPM,
        4,
        32,
    )
    assert (first.search.max_depth, first.search.sampling.max_step_tokens, first.search.c_uct) == (9, 50, 1)
    assert (second.search.num_candidates, second.search.num_rollouts, second.num_samples) == (3, 4, 5)


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
        (POOLS + "rounds: {1: {search_format: chatty}}\n", r"^bad.yaml: search_format is 'chatty'; it must be one of bare, rstar"),
        (POOLS + "engine: {backend: openai}\n",
         r"^bad.yaml: engine.backend is 'openai'; it must be vllm or transformers: a server has one model"),
        (POOLS + "rounds: {1: {search_engine: {backend: openai}}}\n",
         r"^bad.yaml: search_model is None; it must be the folder of the model that search_engine runs"),
        (POOLS + "rounds: {3: {search_model: x, search: {guidance: ppm}}}\n",
         r"^bad.yaml, round 3: search_model is 'x'; it must be null where a preference model guides"),
        (POOLS + "rounds: {9: {}}\n", r"^bad.yaml: rounds.9 is no round"),
        (POOLS + "rounds: {1: 3}\n", r"^bad.yaml: rounds.1 is 3; it must be a section"),
        (POOLS + "rounds: 4\n", r"^bad.yaml: rounds is 4; it must be a section"),
        (POOLS + "rounds: {2: {serach: {}}}\n", r"^bad.yaml, round 2: unknown key serach; did you mean search\?$"),
        (POOLS + "rounds: {2: {base: x}}\n", r"^bad.yaml: rounds.2.base is set; base is the same in all rounds"),
        (POOLS + "search: {guidance: ppm}\n", r"^bad.yaml: search.guidance is 'ppm'; it must be terminal in round 1"),
        (POOLS + "search: {guidance: mcts}\n", r"^bad.yaml: search.guidance is 'mcts'; input should be 'terminal' or 'ppm'"),
        (POOLS + "unsolved: {num_rollouts: [64, 32]}\n", r"^bad.yaml: unsolved.num_rollouts is \[64, 32\]; it must be numbers that rise$"),
        (POOLS + "unsolved: {num_rollouts: [16]}\n", r"^bad.yaml: unsolved.num_rollouts is \[16\]; it must be above search.num_rollouts, 16$"),
        (POOLS + "unsolved: {num_rollouts: 32}\n", r"^bad.yaml: unsolved.num_rollouts is 32; input should be a valid tuple$"),
        (POOLS + "unsolved: {num_trees: 0}\n", r"^bad.yaml: unsolved.num_trees is 0; it must be at least 1$"),
        (POOLS + "mastered_rollouts: 99\n", r"^bad.yaml: mastered_rollouts is 99; it must be from 1 to search.num_rollouts, 16, or null$"),
        (POOLS + "min_coverage_gain: 2\n", r"^bad.yaml: min_coverage_gain is 2.0; it must be a share in \[0, 1\]"),
        (POOLS + "pairs: {min_q_margin: 3}\n", r"^bad.yaml: pairs.min_q_margin is 3.0; it must be in \[0, 2\]$"),
        (POOLS + "pairs: {margin: 1}\n", r"^bad.yaml: unknown key pairs.margin; did you mean min_q_margin"),
        (POOLS + "ppm: {objective: dpo}\n", r"^bad.yaml: ppm.objective is 'dpo'; input should be 'ppm', 'pqm' or 'orm'$"),
        (POOLS + "evaluation: {num_samples: 0}\n", r"^bad.yaml: evaluation.num_samples is 0; it must be at least 1$"),
        (POOLS + "evaluation: {search: 3}\n", r"^bad.yaml: evaluation.search is 3; it must be a section"),
        (POOLS + "evaluation: {search: {candidates: 3}}\n", r"^bad.yaml: unknown key evaluation.search.candidates; did you mean num_candidates"),
        (POOLS + "evaluation: {problems: {esay: 3}}\n", r"^bad.yaml: evaluation.problems has no level 'esay'; did you mean easy\?$"),
        (POOLS + "evaluation: 3\n", r"^bad.yaml: evaluation is 3; it must be a section"),
        ("problems: {train: {curriculum: {hard: 1}}, evaluation: {curriculum: {easy: 1}}}\n",
         r"^bad.yaml: problems.train.curriculum has no level 'hard'; levels: easy, medium, olympiad$"),
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
        (
            "embedded",
            1,
            ["rounds.7.seed=1"],
            r"^'rounds.7.seed=1' is for no round; the recipe has rounds 1 to 4",
        ),
        ("embedded", 1, ["rounds.2=1"], r"^'rounds.2=1' is for no round"),
        ("embedded", 1, ["rounds=1"], r"^'rounds=1' is for no round"),
        ("embedded", 1, ["rounds.2.seed=1"], r"^rounds.2.seed is set; seed is the same in all rounds"),
        ("embedded", 1, ["rounds.3.serach.c_uct=1"], r"^embedded.yaml, round 3: unknown key serach"),
        (
            "embedded",
            1,
            ["rounds.4.unsolved.num_rollouts=[8]"],
            r"^embedded.yaml, round 4: unsolved.num_rollouts is",
        ),
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
        "import sys; from rounds.recipe import load_rounds, plain; [plain(one) for one in load_rounds('embedded')];"
        "print(sorted({'torch', 'transformers', 'pandas', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
