"""Settings of the search: frozen dataclasses that import no model code, and the one way to read and override them.

`build(SearchConfig, {"num_rollouts": 8})` validates a mapping (as read from YAML or JSON), `override` applies
`a.b=c` texts. An unknown key is an error that names the near misses; so is a value of the wrong type or range.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from rstar.errors import ConfigError
from rstar.protocols import SamplingConfig

T = TypeVar("T")

_INFINITIES = {".inf": math.inf, "-.inf": -math.inf}


class Selection(StrEnum):
    """How a child is chosen."""

    UCT = "uct"
    """The paper's."""
    PUCT = "puct"
    """With the policy's length-normalised probability as prior."""


class Guidance(StrEnum):
    """Where a new node's first value comes from (rStar-Math, section 3.3)."""

    TERMINAL = "terminal"
    """From terminal rewards only: rounds 1 and 2."""
    PPM = "ppm"
    """From the process preference model: rounds 3 and 4, and inference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One tree's search. Defaults are the paper's for round 2 (section 4.1) unless noted."""

    num_rollouts: int = 16
    """Walks from the root to an end."""
    num_candidates: int = 8
    """Steps that the policy is asked for after one node."""
    max_depth: int = 16
    """Deepest node, in edges from the root; code steps and the answer step count. [paper]"""
    guidance: Guidance = Guidance.TERMINAL
    selection: Selection = Selection.UCT
    c_uct: float = 2.0
    """Exploration constant of UCT. [paper]"""
    c_puct: float = 2.0
    """Exploration constant of PUCT; on the scale of `c_uct`. [ours]"""
    unvisited_score: float = math.inf
    """UCT of a child with N = 0: infinity tries every child once [ours]; the released code has 0."""
    parallel_rollouts: int = 1
    """Rollouts of one tree in flight at once. More than 1 makes a tree depend on timing. [ours]"""
    virtual_loss: float = 1.0
    """What each rollout in flight through a node takes off its W while it adds 1 to its N; 0 gives WU-UCT's
    unobserved counts (arXiv:1810.11755). Without effect at one rollout in flight."""
    max_tree_tokens: int | None = None
    """Stop a tree after the rollout that reaches this many sampled tokens."""
    max_output_chars: int = 2000
    """How much of a program's output the policy is shown; the cut says how much is gone. [ours]"""
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        at_least_one = (
            "num_rollouts",
            "num_candidates",
            "max_depth",
            "parallel_rollouts",
            "max_output_chars",
        )
        for name in at_least_one:
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("c_uct", "c_puct", "virtual_loss"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "finite and at least 0")
        require(
            not math.isnan(self.unvisited_score), "unvisited_score", self.unvisited_score, "a number or .inf"
        )
        tokens = self.max_tree_tokens
        require(tokens is None or tokens >= 1, "max_tree_tokens", tokens, "at least 1, or null")
        sampling = self.sampling
        require(sampling.temperature >= 0, "sampling.temperature", sampling.temperature, "at least 0")
        require(0 < sampling.top_p <= 1, "sampling.top_p", sampling.top_p, "in (0, 1]")
        require(sampling.top_k >= 0, "sampling.top_k", sampling.top_k, "at least 0")
        steps = sampling.max_step_tokens
        require(steps >= 1, "sampling.max_step_tokens", steps, "at least 1")


def greedy(config: SearchConfig) -> SearchConfig:
    """The policy alone: one rollout of one candidate at temperature 0. pass@1 is its share of verified trees."""
    sampling = dataclasses.replace(config.sampling, temperature=0.0)
    return dataclasses.replace(
        config, num_rollouts=1, num_candidates=1, parallel_rollouts=1,
        guidance=Guidance.TERMINAL, max_tree_tokens=None, sampling=sampling,
    )  # fmt: skip


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise ConfigError naming the key, its value and what is allowed, unless it holds."""
    if not holds:
        raise ConfigError(f"{key} is {value!r}; it must be {allowed}")


def build(kind: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Make a settings dataclass from plain values, nested ones from nested mappings.

    Raises ConfigError, one line, for an unknown key (with near misses), a missing one, or a wrong type or range.
    `where` (a file name) starts the message.
    """
    from pydantic import TypeAdapter, ValidationError

    at = f"{where}: " if where else ""
    try:
        _known_keys(kind, values, "")
        return TypeAdapter(kind).validate_python(_read_infinities(values))
    except ConfigError as error:
        raise ConfigError(f"{at}{error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            section = f"{key}." if key else ""
            raise ConfigError(f"{at}{section}{cause}") from None
        if first["type"] == "missing":
            raise ConfigError(f"{at}{key} is missing") from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{at}{key} is {first['input']!r}; {message}") from None


def override(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """`values` with each `a.b=c` applied in order; c is read as YAML (so 8, 0.5, true, null, .inf, [1, 2] mean what they say).

    Only the spelling is checked here; `build` says whether a key exists. Raises ConfigError for text without "=".
    """
    import yaml

    result = _deep_copy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"{setting!r} is no setting; write key=value, for example search.num_rollouts=16"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{setting!r}: the value is not valid YAML") from None
        *sections, last = key.strip().split(".")
        at = result
        for section in sections:
            inner = at[section] = {} if at.get(section) is None else at[section]
            if not isinstance(inner, dict):
                raise ConfigError(f"{setting!r}: {section} is a value, not a section")
            at = inner
        at[last] = value
    return result


def to_plain(config: object) -> Any:
    """A settings dataclass as plain JSON-able values, enums as their text, infinity as the text ".inf"."""
    match config:
        case StrEnum():
            return str(config)
        case float() if math.isinf(config):
            return next(text for text, number in _INFINITIES.items() if number == config)
        case dict():
            return {str(key): to_plain(value) for key, value in config.items()}
        case list() | tuple():
            return [to_plain(value) for value in config]
        case _ if dataclasses.is_dataclass(config):
            return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
        case _:
            return config


def _deep_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _deep_copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _read_infinities(value: Any) -> Any:
    """Undo what `to_plain` does to infinity, at any depth (JSON has no number for it; YAML reads .inf by itself)."""
    if isinstance(value, Mapping):
        return {key: _read_infinities(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_read_infinities(inner) for inner in value]
    return _INFINITIES.get(value, value) if isinstance(value, str) else value


def _known_keys(kind: Any, values: object, path: str) -> None:
    """Complain about the first key that `kind` has no field for; go down into nested dataclasses."""
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{path or 'the top level'} is {values!r}; it must be a section of key: value lines"
        )
    types = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for key, value in values.items():
        full = f"{path}.{key}" if path else str(key)
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known keys: {', '.join(names)}"
            raise ConfigError(f"unknown key {full}; {hint}")
        inner = types[key]
        nested = [inner, *get_args(inner)]
        if isinstance(value, bool) and bool not in nested and (int in nested or float in nested):
            raise ConfigError(f"{full} is {value}; it must be a number")
        if dataclasses.is_dataclass(inner) and not isinstance(value, cast(type, inner)):
            _known_keys(inner, value, full)
        elif isinstance(value, Mapping) and get_origin(inner) in (Union, UnionType):
            for section in (kind for kind in nested if dataclasses.is_dataclass(kind)):
                _known_keys(section, value, full)
