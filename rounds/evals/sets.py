"""The problem sets of the field by name, and any other from a file or the `datasets` hub."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rounds.curriculum import Level, Split, curriculum
from rounds.preparation.sources import HUB, read_pool
from rstar.errors import ConfigError, ProblemError
from rstar.problem_rows import SUFFIXES
from rstar.problems import Problem, read_problems

EMBEDDED = "embedded"
"""The evaluation split of the embedded curriculum."""
EMBEDDED_COUNTS: Mapping[str, int] = {Level.EASY: 100, Level.MEDIUM: 100, Level.OLYMPIAD: 200}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSet:
    """A set of the field: `hub` is what `hub:` takes, `files` the stems that a local file of it may have."""

    title: str
    hub: str
    files: tuple[str, ...]


SETS: Mapping[str, EvalSet] = {
    "math-500": EvalSet(
        title="MATH-500", hub="HuggingFaceH4/MATH-500:test", files=("math500_test", "math-500", "math500")
    ),
    "aime-2024": EvalSet(
        title="AIME 2024", hub="HuggingFaceH4/aime_2024:train", files=("aime2024_test", "aime-2024", "aime2024")
    ),
    "aime-2025": EvalSet(
        title="AIME 2025", hub="math-ai/aime25:test", files=("aime2025_test", "aime-2025", "aime2025")
    ),
    "amc-2023": EvalSet(title="AMC 2023", hub="math-ai/amc23:test", files=("amc23_test", "amc-2023", "amc23")),
    "olympiadbench": EvalSet(
        title="OlympiadBench",
        hub="Hothan/OlympiadBench:train:OE_TO_maths_en_COMP",
        files=("olympiadbench_test", "olympiadbench"),
    ),
    "college-math": EvalSet(
        title="College Math", hub="di-zhang-fdu/College_Math_Test:test", files=("collegemath_test", "college-math")
    ),
    "gsm8k": EvalSet(title="GSM8K", hub="openai/gsm8k:test:main", files=("GSM8K_test", "gsm8k_test", "gsm8k")),
    "gaokao-2023-en": EvalSet(
        title="Gaokao 2023 EN",
        hub="MARIO-Math-Reasoning/Gaokao2023-Math-En:train",
        files=("gaokao2023en_test", "gaokao-2023-en"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSet:
    """Problems with answers, and where they come from."""

    name: str
    """Also that of its folder."""
    title: str
    origin: str
    problems: tuple[Problem, ...]


def load_set(what: str, *, data: Path | None, limit: int | None, seed: int) -> LoadedSet:
    """A set by name (`math-500`, `embedded`, …), a problem file, or `hub:NAME[:SPLIT[:CONFIG]]`; its first `limit` problems.

    A named set is read from the folder `data` if that holds a file of it, else from the hub. Raises ConfigError for an unknown
    name, ProblemError for a file that cannot be read or has no problem with an answer; single ones without are left out.
    """
    if what == EMBEDDED:
        problems = tuple(curriculum(Split.EVAL, EMBEDDED_COUNTS, seed))
        return _cut(
            LoadedSet(
                name=what, title="embedded, held out", origin=f"curriculum, seed {seed}", problems=problems
            ),
            limit,
        )
    if what.startswith(HUB):
        name = what.removeprefix(HUB).split(":")[0].rsplit("/", 1)[-1]
        return _cut(_checked(name, name, what), limit)
    if what in SETS:
        known = SETS[what]
        local = _local(known, data)
        return _cut(_checked(what, known.title, str(local) if local else f"{HUB}{known.hub}"), limit)
    path = Path(what)
    if path.suffix in SUFFIXES:
        return _cut(_checked(path.stem, path.stem, what), limit)
    close = difflib.get_close_matches(what, [*SETS, EMBEDDED], n=1)
    hint = f"did you mean {close[0]}?" if close else f"sets: {', '.join([EMBEDDED, *SETS])}"
    raise ConfigError(
        f"no problem set {what!r}; {hint} A file's name ends in {', '.join(SUFFIXES)}; a set of the hub is {HUB}NAME[:SPLIT[:CONFIG]]"
    )


def _local(known: EvalSet, data: Path | None) -> Path | None:
    if data is None:
        return None
    if not data.is_dir():
        raise ConfigError(f"--data {data} is no folder; give one that holds problem files")
    return next(
        (path for stem in known.files for suffix in SUFFIXES if (path := data / f"{stem}{suffix}").is_file()),
        None,
    )


def _checked(name: str, title: str, origin: str) -> LoadedSet:
    found = read_pool(origin) if origin.startswith(HUB) else read_problems(origin)
    without = [problem for problem in found.problems if not problem.answer]
    kept = tuple(problem for problem in found.problems if problem.answer)
    if not kept:
        raise ProblemError(f"{origin}: no problem has an answer; an evaluation needs them")
    if without:  # as two of Gaokao 2023 EN have none
        origin = f"{origin} ({len(without)} without an answer left out)"
    return LoadedSet(name=name, title=title, origin=origin, problems=kept)


def _cut(loaded: LoadedSet, limit: int | None) -> LoadedSet:
    """The first `limit` problems; where they have levels, as near to so many in all, in equal parts of each level."""
    if limit is None or limit >= len(loaded.problems):
        return loaded
    levels = list(dict.fromkeys(problem.level for problem in loaded.problems))
    share, rest = divmod(limit, len(levels))
    quota = {level: share + (at < rest) for at, level in enumerate(levels)}
    chosen = []
    for problem in loaded.problems:
        if quota[problem.level]:
            quota[problem.level] -= 1
            chosen.append(problem)
    return LoadedSet(name=loaded.name, title=loaded.title, origin=loaded.origin, problems=tuple(chosen))
