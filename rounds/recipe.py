"""A recipe: the complete settings of an experiment, read from a YAML file. Data, not code.

A recipe file changes a few settings of the one it `extends`; its section `rounds` changes a few of the recipe's own for
one round. `load` returns the settings of one round, complete and checked, without importing any model code.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from policy.config import SFTConfig, SFTSetConfig
from rstar.config import SearchConfig, build, override, require, to_plain
from rstar.engines import EngineConfig
from rstar.errors import ConfigError
from rstar.grading import GraderConfig
from rstar.prompts import FORMATS
from rstar.sandbox import SandboxConfig
from rstar.seeds import derive

RECIPES = Path(__file__).parent / "recipes"
EMBEDDED = "embedded"
"""In place of a folder: the base model that is shipped with the project."""
LAST_ROUND = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """A set of problems: so many of each level from the embedded curriculum, or files, or both."""

    curriculum: dict[str, int] = dataclasses.field(default_factory=dict)
    """Level to number of problems."""
    files: tuple[str, ...] = ()
    """JSONL, JSON or Parquet."""

    def __post_init__(self) -> None:
        for level, count in self.curriculum.items():
            require(count >= 0, f"curriculum.{level}", count, "at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemsConfig:
    """What is searched and trained on, and what no round ever sees but evaluation."""

    train: PoolConfig
    evaluation: PoolConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecipe:
    """The settings of one round, complete."""

    name: str
    round_index: int
    problems: ProblemsConfig
    base: str = EMBEDDED
    """Folder of the base model, which every round's policy is trained from, or `embedded`."""
    prompt_format: str = "bare"
    seed: int = 0
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    sandbox: SandboxConfig = dataclasses.field(default_factory=SandboxConfig)
    sft_set: SFTSetConfig = dataclasses.field(default_factory=SFTSetConfig)
    sft: SFTConfig = dataclasses.field(default_factory=SFTConfig)
    grading: GraderConfig = dataclasses.field(default_factory=GraderConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        known = ", ".join(FORMATS)
        require(self.prompt_format in FORMATS, "prompt_format", self.prompt_format, f"one of {known}")

    def stage_seed(self, *stage: str) -> int:
        """The seed of one stage of this round."""
        return derive(self.seed, "round", self.round_index, *stage)


def load(recipe: str | Path, round_index: int, settings: Iterable[str] = ()) -> RoundRecipe:
    """The settings of one round: the recipe's, then its own for this round, then `settings` (texts `a.b=c`).

    `recipe` is the name of a shipped recipe or the path of a YAML file. Raises ConfigError, one line.
    """
    if not 1 <= round_index <= LAST_ROUND:
        raise ConfigError(f"there is no round {round_index}; rounds are 1 to {LAST_ROUND}")
    path = find(recipe)
    values = _read(path, seen=())
    rounds = values.pop("rounds", None) or {}
    if not isinstance(rounds, Mapping):
        raise ConfigError(f"{path.name}: rounds is {rounds!r}; it must be a section with one entry per round")
    for key in rounds:
        if key not in range(1, LAST_ROUND + 1):
            raise ConfigError(f"{path.name}: rounds.{key} is no round; rounds are 1 to {LAST_ROUND}")
    values = _merge(values, rounds.get(round_index) or {}, f"{path.name}: rounds.{round_index}")
    values = override(values, settings)
    values.setdefault("name", path.stem)
    for fixed in ("round_index",):
        if fixed in values:
            raise ConfigError(
                f"{path.name}: {fixed} is not set in a recipe; it is the number of the round that runs"
            )
    return build(RoundRecipe, {**values, "round_index": round_index}, where=path.name)


def find(recipe: str | Path) -> Path:
    """The file of a recipe, given its name among the shipped ones or its path."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"no recipe file at {path}")
    shipped = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    if str(recipe) in shipped:
        return RECIPES / f"{recipe}.yaml"
    close = difflib.get_close_matches(str(recipe), shipped, n=1)
    hint = f"did you mean {close[0]}?" if close else f"shipped recipes: {', '.join(shipped)}"
    raise ConfigError(f"no recipe {str(recipe)!r}; {hint} A file's name ends in .yaml")


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's values over those of the recipe it extends."""
    if path in seen:
        raise ConfigError(f"{path.name} extends itself by way of {', '.join(p.name for p in seen)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path.name}, line {line}: not valid YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: a recipe is a mapping of sections, not {values!r}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    near = path.parent / str(parent)
    parent_path = near if near.is_file() else find(str(parent))
    return _merge(_read(parent_path, (*seen, path)), values, path.name)


def _merge(under: Mapping[str, Any], over: object, where: str) -> dict[str, Any]:
    """`over` on top of `under`, section by section. Problem pools are replaced whole: half of one makes no sense."""
    if not isinstance(over, Mapping):
        raise ConfigError(f"{where} is {over!r}; it must be a section of key: value lines")
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        pool = key in ("train", "evaluation")
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not pool:
            merged[key] = _merge(below, value, f"{where}.{key}")
        else:
            merged[key] = value
    return merged


def plain(recipe: RoundRecipe) -> dict[str, Any]:
    """The recipe as plain values, for manifests and for `rstar round show`."""
    values: dict[str, Any] = to_plain(recipe)
    return values
