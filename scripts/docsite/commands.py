"""The page of every command."""

from __future__ import annotations

import inspect
from typing import Any

from docsite.markup import table


def commands() -> str:
    """Every command with its help and its options."""
    import typer

    from d2net.cli import app

    group: Any = typer.main.get_command(app)
    text = "# Command line\n\n`d2net COMMAND --help` says the same. Bad input is one line on standard error and exit "
    text += "status 2.\n"
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["d2net", name, *map(_usage_name, arguments), "[options]"])
        text += f"\n## {name}\n\n{_escaped(inspect.cleandoc(command.help or ''))}\n\n```sh\n{usage}\n```\n\n"
        rows = []
        for p in command.params:
            if "--help" in p.opts:
                continue
            given = [_usage_name(p)] if p in arguments else [*p.opts, *p.secondary_opts]
            default = "" if callable(p.default) or p.default in (None, False, ()) else p.default
            shown = "required" if p.required else str(default)
            rows.append([", ".join(f"`{o}`" for o in given), shown, _escaped(p.help or "")])
        text += table(["option", "default", "meaning"], rows)
    return text


def _escaped(text: str) -> str:
    """Names in angle brackets are no HTML, and stars of file patterns no emphasis."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _usage_name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()
