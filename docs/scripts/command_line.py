"""The reference of the command `rstar` as Markdown, made from its parsers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer.main

INTRODUCTION = """# Command line

`rstar COMMAND --help` shows the same in the terminal; `rstar --install-completion` teaches the shell to complete it. What
is wrong with a command is one line on standard error and exit code 2; Ctrl-C is exit code 130 and loses nothing that is
finished. `--set KEY=VALUE` changes one of the [settings](settings.md).
"""


def page() -> str:
    """The page, every command a section."""
    import rounds.cli  # noqa: F401 - adds the commands that drive rounds
    from rstar.cli import app

    return "\n".join([INTRODUCTION, *_command(typer.main.get_command(app), "rstar")]) + "\n"


def _command(command: Any, name: str) -> Iterator[str]:
    """Typer's commands and parameters have no public types; they look like click's."""
    children = getattr(command, "commands", {})
    for child in sorted(children):
        yield from _command(children[child], f"{name} {child}")
    if children:
        return
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    usage = [name, *(_placeholder(one) for one in arguments), *(["[OPTIONS]"] if options else [])]
    yield f"## {name}\n\n```text\n{' '.join(usage)}\n```\n\n{inspect.cleandoc(command.help or '')}\n"
    yield "| | default | meaning |\n|---|---|---|"
    yield from (_row(one) for one in (*arguments, *options))
    yield ""


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        written = _placeholder(parameter)
    else:
        written = ", ".join([*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            written += f" {parameter.metavar or parameter.name.upper()}"
    shown, default = parameter.show_default, parameter.default
    if isinstance(shown, str):
        value = cell(shown)
    elif parameter.required:
        value = "required"
    elif default in (None, False, "", ()):
        value = ""
    else:
        value = f"`{default}`"
    return f"| `{cell(written)}` | {value} | {cell(parameter.help or '')} |"


def cell(text: str) -> str:
    """Text that stays inside a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
