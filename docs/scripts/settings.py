"""The reference of the settings as Markdown, made from the frozen dataclasses and the texts below their fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from docs.scripts.command_line import cell
from rstar.config import to_plain

INTRODUCTION = """# Settings

Every setting there is, with its type, default and meaning. A recipe has them as sections (`search: {num_rollouts: 16}`); a
command takes them one by one (`--set search.num_rollouts=16`), read as YAML, so `null`, `true`, `.inf` and `[1, 2]` mean
what they say. An unknown key, a wrong type, a value out of range is one line that says what would be right.

`[paper]` marks what rStar-Math (arXiv:2501.04519) states, `[code]` what only its released code says, `[ours]` what is this
project's choice.
"""


def sections() -> dict[str, type]:
    """Headings and what stands below them."""
    from policy.config import SFTConfig, SFTSetConfig
    from ppm.config import PairConfig, PPMConfig
    from rounds.evals.config import EvalConfig
    from rounds.preparation.config import PreparationConfig
    from rounds.recipe import EvaluationConfig, PoolConfig, RoundRecipe, UnsolvedConfig
    from rstar.backends.openai.config import OpenAIConfig
    from rstar.backends.vllm.config import VLLMConfig
    from rstar.config import SearchConfig
    from rstar.engines import EngineConfig
    from rstar.grading import GraderConfig
    from rstar.protocols import SamplingConfig
    from rstar.sandbox import SandboxConfig
    from rstar.server.config import ServerConfig

    return {
        "recipe": RoundRecipe,
        "problems.train, problems.evaluation": PoolConfig,
        "search": SearchConfig,
        "search.sampling": SamplingConfig,
        "unsolved": UnsolvedConfig,
        "sandbox": SandboxConfig,
        "grading": GraderConfig,
        "engine": EngineConfig,
        "engine.vllm": VLLMConfig,
        "engine.openai": OpenAIConfig,
        "sft_set": SFTSetConfig,
        "sft": SFTConfig,
        "pairs": PairConfig,
        "ppm": PPMConfig,
        "evaluation": EvaluationConfig,
        "rstar eval": EvalConfig,
        "rstar problems prepare": PreparationConfig,
        "rstar serve": ServerConfig,
    }


def page() -> str:
    """The page, every dataclass a section."""
    parts = [INTRODUCTION]
    for heading, kind in sections().items():
        parts += [
            f"## {heading}\n",
            f"`{kind.__module__}.{kind.__qualname__}`. {inspect.cleandoc(kind.__doc__ or '')}\n",
        ]
        parts += ["| setting | type | default | meaning |", "|---|---|---|---|", *_rows(kind), ""]
    return "\n".join(parts)


def _rows(kind: type) -> Iterator[str]:
    hints, meanings = get_type_hints(kind), field_texts(kind)
    for one in dataclasses.fields(kind):
        meaning = meanings.get(one.name) or _summary(hints[one.name])
        choices = _members(hints[one.name])
        yield f"| `{one.name}` | {cell(_type(hints[one.name]))} | {_default(one)} | {cell(f'{meaning} {choices}'.strip())} |"


def field_texts(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass, those of its bases included."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        texts[statement.target.id] = text
    return texts


def _members(hint: Any) -> str:
    """What each member of a closed set means, where that is said."""
    kinds = [one for one in (hint, *get_args(hint)) if inspect.isclass(one) and issubclass(one, StrEnum)]
    said = []
    for kind in kinds:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        texts = {}
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            match statement, following:
                case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = text
        said += [f"`{member}`: {texts[member.name]}" for member in kind if member.name in texts]
    return " ".join(said)


def _type(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type(one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {_type(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "mapping of {} to {}".format(*map(_type, get_args(hint)))
    if inspect.isclass(hint) and issubclass(hint, StrEnum):
        return ", ".join(f"`{member}`" for member in hint)
    if dataclasses.is_dataclass(hint):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true, false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _summary(hint: Any) -> str:
    """What a section is for: the first line about its dataclass."""
    return inspect.cleandoc(hint.__doc__ or "").split("\n\n")[0] if dataclasses.is_dataclass(hint) else ""


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default_factory is not dataclasses.MISSING:
        value = one.default_factory()
    elif one.default is not dataclasses.MISSING:
        value = one.default
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "its defaults"
    plain = to_plain(value)
    shown = (
        "null"
        if plain is None
        else str(plain).lower()
        if isinstance(plain, bool)
        else ""
        if plain == ""
        else str(plain)
    )
    return f"`{shown}`" if shown else "empty"
