"""The Python API: every public name of d2kernels that is no op, and of d2net, from their docstrings."""

from __future__ import annotations

import inspect
from typing import Any

from docsite.markup import docstring, signature, table


def entry(name: str, value: Any, level: str = "###") -> list[str]:
    """A name's heading, signature, docstring and, of a class, its public methods."""
    out = [f"{level} {name.rpartition('.')[2]}", ""]
    if hasattr(value, "model_fields"):
        out += ["Its fields are under [Configuration](configuration.md); `make_config` makes one.", ""]
    else:
        out += ["```text", signature(name, value), "```", ""]
    out += [docstring(inspect.getdoc(value) or ""), ""]
    return out + (members(value) if inspect.isclass(value) else [])


def members(value: type) -> list[str]:
    """A class's own public methods and properties that have a docstring, as a table."""
    rows = []
    for name, raw in vars(value).items():
        function = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
        if name.startswith("_") or not (said := inspect.getdoc(function)) or not callable(function):
            continue
        shown = " ".join((name if isinstance(raw, property) else signature(name, function)).split())
        shown = shown.replace("( ", "(").replace(", )", ")").replace("(self, ", "(").replace("(self)", "()")
        rows.append([f"`{shown}`", said.partition("\n\n")[0]])
    return [table(["member", "what it is"], rows), ""] if rows else []


def kernels() -> list[str]:
    """d2kernels: Ragged, nn and backends."""
    import d2kernels as d2k
    from d2kernels import nn

    out = ["## d2kernels", "", "The ops have [pages of their own](ops.md).", ""]
    out += entry("d2kernels.Ragged", d2k.Ragged)
    out += ["## d2kernels.nn", "", inspect.getdoc(nn) or "", ""]
    for name in modules():
        out += entry(f"d2kernels.nn.{name}", getattr(nn, name))
    out += ["## d2kernels.backends", "", inspect.getdoc(d2k.backends) or "", ""]
    for name in ("use", "explain", "can_run", "select"):
        out += entry(f"d2kernels.backends.{name}", getattr(d2k.backends, name))
    return out


def modules() -> list[str]:
    """The classes of d2kernels.nn."""
    from d2kernels import nn

    return [n for n, v in vars(nn).items() if inspect.isclass(v) and v.__module__ == "d2kernels.nn"]


def api() -> str:
    """The page."""
    import d2net

    out = ["# Python API", "", "Every public name, from its docstring.", ""]
    out += ["## d2net", "", inspect.getdoc(d2net) or "", ""]
    for name in d2net.__all__:
        out += entry(f"d2net.{name}", getattr(d2net, name))
    return "\n".join([*out, *kernels()])
