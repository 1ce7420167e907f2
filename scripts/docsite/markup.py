"""Markdown of tables, values and docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any

SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$")
ENTRY = re.compile(r"^((?:\*{0,2}[A-Za-z_]\w*)(?:, \*{0,2}[A-Za-z_]\w*)*): (.*)$")
NAMES = {"Args": "Arguments"}


def cell(text: object) -> str:
    """One line, its bars escaped but in code, where the site's Markdown takes them as they are."""
    parts = " ".join(str(text).split()).split("`")
    return "`".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def code(value: object) -> str:
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def signature(name: str, value: Any) -> str:
    """As one would write it, an argument a line where it is long."""
    try:
        given = inspect.signature(value)
    except (TypeError, ValueError):
        return f"{name}(…)"
    text = f"{name}{given}"
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace(" = ", "=") if len(text) > 1000 else text
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    if len(text) <= 100:
        return text
    parts = [re.sub(r": '([^']*)'", r": \1", str(p)) for p in given.parameters.values()]
    kinds = list(given.parameters.values())
    first = next((i for i, p in enumerate(kinds) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None and not any(p.kind is p.VAR_POSITIONAL for p in kinds):
        parts.insert(first, "*")
    back = re.sub(r"^.*\) ?(-> .*)?$", r"\1", text) if "->" in text else ""
    return f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + ")" + (f" {back}" if back else "")


def docstring(text: str) -> str:
    """A docstring with the sections Args, Returns and Raises as Markdown: each argument an item."""
    out: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if match := SECTION.match(line):
            out += ["", f"**{NAMES.get(match[1], match[1])}**", ""]
        elif out and line.startswith("    ") and not line.startswith("     "):
            out += _entry(line.strip())
        else:
            out.append(line.strip())
    return "\n".join(out).replace("``", "`").strip() + "\n"


def _entry(line: str) -> list[str]:
    match = ENTRY.match(line)
    if match is None:
        return [line]
    names = ", ".join(f"`{name}`" for name in match[1].split(", "))
    return ["", f"- {names}: {match[2]}"]
