"""A recipe: the complete settings of an experiment, read from a YAML file. Data, not code.

A recipe file changes a few settings of the one it `extends`; its section `rounds` names the rounds it has, and what each
changes. `load_rounds` returns the settings of every round, complete and checked, without importing any model code.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from policy.config import SFTConfig, SFTSetConfig
from ppm.config import PairConfig, PPMConfig
from rounds.curriculum import Level
from rstar.config import Guidance, SearchConfig, build, override, require, to_plain
from rstar.engines import Backend, EngineConfig
from rstar.errors import ConfigError
from rstar.grading import GraderConfig
from rstar.prompts import FORMATS
from rstar.sandbox import SandboxConfig
from rstar.seeds import derive

RECIPES = Path(__file__).parent / "recipes"
EMBEDDED = "embedded"
"""In place of a folder: the base model that is shipped with the project."""
LAST_ROUND = 4
INFERENCE = {"guidance": "ppm", "num_rollouts": 4, "num_candidates": 32}
"""What a search without reference answers has over the recipe's `search` (section 4.1). [paper]"""
_SHARED = ("name", "seed", "base", "prompt_format", "problems", "min_coverage_gain")
"""Settings of the whole recipe: no round has its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """A set of problems: so many of each level from the embedded curriculum, or files, or both."""

    curriculum: dict[str, int] = dataclasses.field(default_factory=dict)
    """Level to number of problems."""
    files: tuple[str, ...] = ()
    """JSONL, JSON or Parquet."""

    def __post_init__(self) -> None:
        for level, count in self.curriculum.items():
            _require_level(level, "curriculum", list(Level))
            require(count >= 0, f"curriculum.{level}", count, "at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemsConfig:
    """What is searched and trained on, and what no round ever sees but evaluation."""

    train: PoolConfig
    evaluation: PoolConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnsolvedConfig:
    """What problems get that have no verified answer after the rollouts of `search` (section 4.2)."""

    num_rollouts: tuple[int, ...] = ()
    """Rollouts in all, to which their trees are taken one after the other, as long as they stay unsolved."""
    num_trees: int = 1
    """Trees in all: what is still unsolved then is searched anew, with another seed and all those rollouts."""

    def __post_init__(self) -> None:
        totals = self.num_rollouts
        rising = all(one < other for one, other in itertools.pairwise(totals))
        require(rising, "num_rollouts", list(totals), "numbers that rise")
        require(self.num_trees >= 1, "num_trees", self.num_trees, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How policy and preference model are evaluated together, by search on held-out problems."""

    search: SearchConfig
    """Of one tree. In a recipe: what differs from its own `search` and from `INFERENCE`."""
    problems: dict[str, int] = dataclasses.field(default_factory=dict)
    """Level to how many of its held-out problems are searched, the first ones; none of a level not named. Empty: all."""
    num_trajectories: int = 1
    """Trees per problem after each round."""
    max_trajectories: int = 16
    """Trees per problem after the last round, for the curve over 1, 2, 4, ... of them. [ours: the paper goes to 64]"""
    num_samples: int = 64
    """Independent samples per problem beside that curve: pass@k, majority vote, best of N."""

    def __post_init__(self) -> None:
        for level, count in self.problems.items():
            require(count >= 0, f"problems.{level}", count, "at least 0")
        for name in ("num_trajectories", "max_trajectories", "num_samples"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecipe:
    """The settings of one round, complete."""

    name: str
    """Of the run's folder, `runs/NAME`; that of the file."""
    round_index: int
    """The round that runs; not set in a recipe."""
    problems: ProblemsConfig
    base: str = EMBEDDED
    """Folder of the base model, which every round's policy is trained from, or `embedded`."""
    prompt_format: str = "bare"
    """How a question becomes a prompt, by name (`rstar.prompts.FORMATS`)."""
    seed: int = 0
    """Decides every random choice."""
    search_model: str | None = None
    """Folder of a model that searches in place of the base (round 1) or of the policy of the round before: the paper's
    bootstrap by a large coder model. The round's policy is trained from the base all the same; where the tokenizers
    differ, `sft_set.retokenize` and `pairs.retokenize` are needed. Null: none."""
    search_format: str | None = None
    """Prompt format of the search, such as one with demonstrations for a model that was not trained on the step format; what
    is drawn from the trees is rendered in `prompt_format`. Null: that one."""
    search_engine: EngineConfig | None = None
    """What runs `search_model`, such as a server; complete by itself. Null: `engine`, as for the policies of the rounds."""
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    unsolved: UnsolvedConfig = dataclasses.field(default_factory=UnsolvedConfig)
    mastered_rollouts: int | None = None
    """Rollouts for problems whose every sampled answer was right in the two rounds before; null: as many as others. [ours]"""
    sandbox: SandboxConfig = dataclasses.field(default_factory=SandboxConfig)
    sft_set: SFTSetConfig = dataclasses.field(default_factory=SFTSetConfig)
    sft: SFTConfig = dataclasses.field(default_factory=SFTConfig)
    pairs: PairConfig = dataclasses.field(default_factory=PairConfig)
    ppm: PPMConfig = dataclasses.field(default_factory=PPMConfig)
    earlier_pairs: bool = False
    """The preference model also learns from the pairs of all earlier rounds: where a round alone gives too few. [ours]"""
    evaluation: EvaluationConfig
    grading: GraderConfig = dataclasses.field(default_factory=GraderConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    min_coverage_gain: float | None = None
    """All rounds end after one in which the share of solved training problems rose by less; null: after the last."""

    def __post_init__(self) -> None:
        known = ", ".join(FORMATS)
        require(self.prompt_format in FORMATS, "prompt_format", self.prompt_format, f"one of {known}")
        searched = self.search_format
        require(
            searched is None or searched in FORMATS, "search_format", searched, f"one of {known}, or null"
        )
        guidance = self.search.guidance
        allowed = "null where a preference model guides: it reads the policy's tokens"
        for name in ("search_model", "search_format") if guidance is Guidance.PPM else ():
            require(getattr(self, name) is None, name, getattr(self, name), allowed)
        served = "vllm or transformers: a server has one model, the rounds make several; it may be a round's search_engine"
        require(self.engine.backend is not Backend.OPENAI, "engine.backend", str(self.engine.backend), served)
        alone = self.search_engine is not None and self.search_model is None
        require(
            not alone,
            "search_model",
            None,
            "the folder of the model that search_engine runs (for a server: its tokenizer)",
        )
        if self.round_index == 1:
            allowed = "terminal in round 1, before which there is no preference model"
            require(guidance is Guidance.TERMINAL, "search.guidance", str(guidance), allowed)
        rollouts, totals = self.search.num_rollouts, self.unsolved.num_rollouts
        allowed = f"above search.num_rollouts, {rollouts}"
        require(all(total > rollouts for total in totals), "unsolved.num_rollouts", list(totals), allowed)
        mastered = self.mastered_rollouts
        allowed = f"from 1 to search.num_rollouts, {rollouts}, or null"
        require(mastered is None or 1 <= mastered <= rollouts, "mastered_rollouts", mastered, allowed)
        gain = self.min_coverage_gain
        require(gain is None or 0 <= gain <= 1, "min_coverage_gain", gain, "a share in [0, 1], or null")
        held_out = self.problems.evaluation
        for level in () if held_out.files else self.evaluation.problems:
            _require_level(level, "evaluation.problems", list(held_out.curriculum))

    @property
    def searched_format(self) -> str:
        """Prompt format of the round's search."""
        return self.search_format or self.prompt_format

    def stage_seed(self, *stage: str) -> int:
        """The seed of one stage of this round."""
        return derive(self.seed, "round", self.round_index, *stage)


def load(recipe: str | Path, round_index: int, settings: Iterable[str] = ()) -> RoundRecipe:
    """The settings of one round. Raises ConfigError as `load_rounds`, or if the recipe has no such round."""
    if not 1 <= round_index <= LAST_ROUND:
        raise ConfigError(f"there is no round {round_index}; rounds are 1 to {LAST_ROUND}")
    found = load_rounds(recipe, settings)
    if round_index > len(found):
        raise ConfigError(
            f"{find(recipe).name} has no round {round_index}; its section rounds ends with {len(found)}"
        )
    return found[round_index - 1]


def load_rounds(recipe: str | Path, settings: Iterable[str] = ()) -> tuple[RoundRecipe, ...]:
    """The settings of every round from 1 to the last that the section `rounds` names (1 if it names none): the
    recipe's, then the round's own, then `settings` in order: texts `a.b=c` for all rounds, `rounds.3.a.b=c` for one.

    `recipe` is the name of a shipped recipe or the path of a YAML file. Raises ConfigError, one line.
    """
    path = find(recipe)
    common = _read(path, seen=())
    common.setdefault("name", path.stem)
    rounds = common.pop("rounds", None) or {}
    if not isinstance(rounds, Mapping):
        raise ConfigError(f"{path.name}: rounds is {rounds!r}; it must be a section with one entry per round")
    for key in rounds:
        if key not in range(1, LAST_ROUND + 1):
            raise ConfigError(f"{path.name}: rounds.{key} is no round; rounds are 1 to {LAST_ROUND}")
    last = max(rounds, default=1)
    asked = [_addressed(setting, last) for setting in settings]
    return tuple(_round(path.name, common, index, rounds.get(index), asked) for index in range(1, last + 1))


def _addressed(setting: str, last: int) -> tuple[int | None, str]:
    """The round that a setting is for (None: every one), and the setting by itself."""
    key, equals, value = setting.partition("=")
    section, *rest = key.strip().split(".")
    if section != "rounds":
        return None, setting
    if len(rest) < 2 or rest[0] not in map(str, range(1, last + 1)):
        raise ConfigError(
            f"{setting!r} is for no round; the recipe has rounds 1 to {last}: rounds.1.search.num_rollouts=16"
        )
    _refuse_shared(rest[1], f"rounds.{rest[0]}")
    return int(rest[0]), ".".join(rest[1:]) + equals + value


def _round(
    file: str, common: Mapping[str, Any], index: int, own: object, asked: Sequence[tuple[int | None, str]]
) -> RoundRecipe:
    """Put together the settings of one round, `own` those of its section."""
    section = f"{file}: rounds.{index}"
    values = _merge(common, own or {}, section)
    for key in own if isinstance(own, Mapping) else ():
        _refuse_shared(key, section)
    values = override(values, [setting for of, setting in asked if of in (None, index)])
    for_all = override(common, [setting for of, setting in asked if of is None])
    search, evaluation = for_all.get("search") or {}, values.pop("evaluation", None) or {}
    if isinstance(search, Mapping) and isinstance(evaluation, Mapping):
        inference = _merge(
            {**search, **INFERENCE}, evaluation.get("search") or {}, f"{file}: evaluation.search"
        )
        evaluation = {**evaluation, "search": inference}
    if "round_index" in values:
        raise ConfigError(
            f"{file}: round_index is not set in a recipe; it is the number of the round that runs"
        )
    special = own or any(of == index for of, _ in asked)
    return build(
        RoundRecipe,
        {**values, "evaluation": evaluation, "round_index": index},
        where=f"{file}, round {index}" if special and index > 1 else file,
    )


def _refuse_shared(key: str, section: str) -> None:
    if key in _SHARED:
        raise ConfigError(
            f"{section}.{key} is set; {key} is the same in all rounds, set it outside of rounds"
        )


def _require_level(level: str, where: str, known: Sequence[str]) -> None:
    if level not in known:
        close = difflib.get_close_matches(level, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"levels: {', '.join(known)}"
        raise ConfigError(f"{where} has no level {level!r}; {hint}")


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


def _merge(under: Mapping[str, Any], over: object, where: str, *, whole: bool = False) -> dict[str, Any]:
    """`over` on top of `under`, section by section. Problem pools are replaced whole: half of one makes no sense."""
    if not isinstance(over, Mapping):
        raise ConfigError(f"{where} is {over!r}; it must be a section of key: value lines")
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not whole:
            merged[key] = _merge(below, value, f"{where}.{key}", whole=key == "problems")
        else:
            merged[key] = value
    return merged


def plain(recipe: RoundRecipe) -> dict[str, Any]:
    """The recipe as plain values, for manifests and for `rstar round show`."""
    values: dict[str, Any] = to_plain(recipe)
    return values
