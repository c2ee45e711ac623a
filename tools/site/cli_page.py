"""The reference of the command line: the help of every command, as `saelib COMMAND --help` gives it."""

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

from typer.main import get_command

from saelib.cli.main import app


def cli_page() -> str:
    """Gives the page's Markdown."""
    parts = [
        "# Command line",
        "`saelib COMMAND --help` shows the same in a terminal. `source .venv/bin/activate` puts the command of a clone "
        "on the path; `python -m saelib` is the same command.",
    ]
    for name, command in _commands(get_command(app), "saelib"):
        parts += [f"## {name}", _text(command.help or ""), _usage(name, command), *_options(command)]
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Commands with their full names, those of groups included."""
    for word, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _usage(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    shown = [_metavar(p) if p.required else f"[{_metavar(p)}]" for p in arguments]
    return f"    {' '.join([name, *shown, '[OPTIONS]'])}"


def _options(command: Any) -> list[str]:
    rows = [f"| {_names(p)} | {_default(p)} | {_cell(p.help or '')} |" for p in command.params if not p.hidden]
    return ["\n".join(["| option | default | meaning |", "|---|---|---|", *rows])] if rows else []


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    return ", ".join(f"`{name}`" for name in parameter.opts)


def _metavar(parameter: Any) -> str:
    return (parameter.metavar or parameter.name).upper().rstrip("_")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = getattr(parameter.default, "value", parameter.default)
    return "" if value is None or value is False or callable(value) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(help_text: str) -> str:
    """Paragraphs as they are; those that Typer keeps as they stand (after a form feed or a backspace) as code."""
    paragraphs = re.split(r"\n\s*\n", cleandoc(help_text.split("\f")[0]))
    return "\n\n".join(
        "```text\n" + p.removeprefix("\b").strip("\n") + "\n```" if p.startswith("\b") else p for p in paragraphs
    )
