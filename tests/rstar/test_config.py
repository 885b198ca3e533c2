"""Settings: every wrong key or value is one clear line; what is written can be read back."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rstar.config import Guidance, SearchConfig, Selection, build, greedy, override, to_plain
from rstar.errors import ConfigError
from rstar.protocols import SamplingConfig

samplings = st.builds(
    SamplingConfig,
    temperature=st.floats(0, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 100),
    max_step_tokens=st.integers(1, 4096),
)
configs = st.builds(
    SearchConfig,
    num_rollouts=st.integers(1, 128),
    num_candidates=st.integers(1, 64),
    max_depth=st.integers(1, 32),
    guidance=st.sampled_from(Guidance),
    selection=st.sampled_from(Selection),
    c_uct=st.floats(0, 10),
    c_puct=st.floats(0, 10),
    unvisited_score=st.floats(-10, 10) | st.just(math.inf) | st.just(-math.inf),
    parallel_rollouts=st.integers(1, 8),
    virtual_loss=st.floats(0, 5),
    max_tree_tokens=st.none() | st.integers(1, 10**6),
    max_output_chars=st.integers(1, 5000),
    sampling=samplings,
)


@given(configs)
def test_plain_values_build_the_same_settings_also_through_json_and_yaml(config: SearchConfig) -> None:
    plain = to_plain(config)
    assert build(SearchConfig, plain) == config
    assert build(SearchConfig, json.loads(json.dumps(plain, allow_nan=False))) == config
    assert build(SearchConfig, yaml.safe_load(yaml.safe_dump(plain))) == config


def test_defaults_are_the_papers() -> None:
    config = SearchConfig()
    assert (config.num_rollouts, config.num_candidates, config.max_depth, config.c_uct) == (16, 8, 16, 2.0)
    assert config.sampling.temperature == 1.0
    assert config.unvisited_score == math.inf
    assert build(SearchConfig, {}) == config


def test_settings_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchConfig().num_rollouts = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_rolouts": 1}, "unknown key num_rolouts; did you mean num_rollouts?"),
        ({"sampling": {"temprature": 1}}, "unknown key sampling.temprature; did you mean temperature?"),
        (
            {"sampling": {"zzz": 1}},
            "unknown key sampling.zzz; known keys: temperature, top_p, top_k, max_step_tokens",
        ),
        ({"num_rollouts": 0}, "num_rollouts is 0; it must be at least 1"),
        ({"num_candidates": -3}, "num_candidates is -3; it must be at least 1"),
        ({"max_depth": 0}, "max_depth is 0; it must be at least 1"),
        ({"parallel_rollouts": 0}, "parallel_rollouts is 0; it must be at least 1"),
        ({"max_output_chars": 0}, "max_output_chars is 0; it must be at least 1"),
        ({"max_tree_tokens": 0}, "max_tree_tokens is 0; it must be at least 1, or null"),
        ({"c_uct": -1}, "c_uct is -1.0; it must be finite and at least 0"),
        ({"c_puct": math.inf}, "c_puct is inf; it must be finite and at least 0"),
        ({"virtual_loss": math.nan}, "virtual_loss is nan; it must be finite and at least 0"),
        ({"unvisited_score": math.nan}, "unvisited_score is nan; it must be a number or .inf"),
        ({"sampling": {"temperature": -0.1}}, "sampling.temperature is -0.1; it must be at least 0"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p is 0.0; it must be in (0, 1]"),
        ({"sampling": {"top_k": -1}}, "sampling.top_k is -1; it must be at least 0"),
        ({"sampling": {"max_step_tokens": 0}}, "sampling.max_step_tokens is 0; it must be at least 1"),
        ({"num_rollouts": "many"}, "num_rollouts is 'many'; input should be a valid integer"),
        ({"num_rollouts": 2.5}, "num_rollouts is 2.5; input should be a valid integer"),
        ({"num_rollouts": True}, "num_rollouts is True; it must be a number"),
        ({"max_tree_tokens": False}, "max_tree_tokens is False; it must be a number"),
        ({"num_rollouts": None}, "num_rollouts is None; input should be a valid integer"),
        ({"selection": "ucb"}, "selection is 'ucb'; input should be 'uct' or 'puct'"),
        ({"sampling": 3}, "sampling is 3; it must be a section of key: value lines"),
        ({"sampling": None}, "sampling is None; it must be a section of key: value lines"),
        ([1], "the top level is [1]; it must be a section of key: value lines"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_where_what_and_what_would_be_right(
    values: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(SearchConfig, values, where="recipe.yaml")
    assert str(caught.value).startswith(f"recipe.yaml: {message}")
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    """Required."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    inner: Inner | None = None
    names: tuple[str, ...] = ()
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    flag: bool = False
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {}}, "inner.size is missing"),
        ({"inner": {"sise": 1}}, "unknown key inner.sise; did you mean size?"),
        ({"search": {"num_rollouts": 0}}, "search.num_rollouts is 0; it must be at least 1"),
        ({"search": {"sampling": {"top_p": 2}}}, "search.sampling.top_p is 2.0; it must be in (0, 1]"),
    ],
)
def test_a_wrong_setting_in_a_section_is_named_with_its_section(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values)
    assert str(caught.value) == message


def test_sections_lists_mappings_and_infinities_round_trip() -> None:
    outer = Outer(
        inner=Inner(size=3),
        named={"x": Inner(size=4)},
        names=("a", "b"),
        weights={"x": math.inf, "y": -math.inf, "z": 1.0},
        flag=True,
    )
    assert build(Outer, json.loads(json.dumps(to_plain(outer), allow_nan=False))) == outer
    assert build(Outer, {"inner": None}) == Outer()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("num_rollouts=8", {"num_rollouts": 8}),
        ("a.b=0.5", {"a": {"b": 0.5}}),
        ("a.b=true", {"a": {"b": True}}),
        ("a=null", {"a": None}),
        ("a=.inf", {"a": math.inf}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=x=y", {"a": "x=y"}),
    ],
)
def test_an_override_is_read_as_yaml(setting: str, expected: dict[str, Any]) -> None:
    assert override({}, [setting]) == expected


def test_overrides_apply_in_order_and_leave_the_original_alone() -> None:
    values = {"search": {"num_rollouts": 8, "sampling": {"top_k": 1}}, "seed": 1}
    changed = override(values, ["search.num_rollouts=9", "search.num_rollouts=10", "search.sampling.top_k=2"])
    assert changed == {"search": {"num_rollouts": 10, "sampling": {"top_k": 2}}, "seed": 1}
    assert values == {"search": {"num_rollouts": 8, "sampling": {"top_k": 1}}, "seed": 1}


def test_an_override_fills_an_empty_section() -> None:
    assert override({"search": None}, ["search.num_rollouts=4"]) == {"search": {"num_rollouts": 4}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("num_rollouts", "'num_rollouts' is no setting; write key=value"),
        ("=3", "'=3' is no setting; write key=value"),
        ("a.b=[1", "'a.b=[1': the value is not valid YAML"),
        ("seed.x=1", "'seed.x=1': seed is a value, not a section"),
    ],
)
def test_an_override_that_cannot_be_read_is_one_clear_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override({"seed": 3}, [setting])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_greedy_is_one_rollout_of_one_candidate_at_temperature_0_with_the_rest_kept() -> None:
    config = SearchConfig(
        guidance=Guidance.PPM, parallel_rollouts=4, max_tree_tokens=9, max_depth=5, c_uct=1.0,
        sampling=SamplingConfig(temperature=0.7, max_step_tokens=99),
    )  # fmt: skip
    expected = SearchConfig(
        num_rollouts=1, num_candidates=1, max_depth=5, c_uct=1.0,
        sampling=SamplingConfig(temperature=0.0, max_step_tokens=99),
    )  # fmt: skip
    assert greedy(config) == expected
