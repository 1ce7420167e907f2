"""Builds the documentation's site into build/site: `make docs`. Links that lead nowhere are errors.

Pages of docs/, README.md and CHANGELOG.md as they are; beside them pages that are made from the code, so that they
cannot lag behind it: every configuration field, every command, every op.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build/docs"
NAV = """
[project]
site_name = "d2kernels"
site_description = "Fast training and localization on ragged sequences in time"
docs_dir = "docs"
site_dir = "site"
nav = [
{nav}
]
[project.theme]
features = ["navigation.sections", "navigation.top", "search.highlight", "content.code.copy"]
"""
BY_HAND = {
    "videos": "Your own videos",
    "features": "Your own features",
    "data": "Data and formats",
    "threads": "Machines that others use",
    "temporal_conv": "Notes: temporal convolution",
    "step": "Notes: the training step",
}


def cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def code(value: object) -> str:
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def kind(annotation: Any, metadata: list[Any]) -> str:
    """A field's type and range in words."""
    parts = [a for a in get_args(annotation) if a is not type(None)] if get_origin(annotation) is not list else []
    if get_origin(annotation) is Literal:
        return " or ".join(code(choice) for choice in get_args(annotation))
    optional = type(None) in get_args(annotation)
    names = [kind(p, []) for p in parts] or [getattr(annotation, "__name__", str(annotation))]
    if get_origin(annotation) is list:
        names = [f"list of {get_args(annotation)[0].__name__}"]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{signs[s]} {getattr(m, s):g}" for m in metadata for s in signs if getattr(m, s, None) is not None]
    return ", ".join([" or ".join(names), *limits]) + (", or null" if optional else "")


def configuration() -> str:
    """Every field with its type, its default by recipe, what presets make of it, and its meaning."""
    from d2net.config import Config, make_config
    from d2net.presets import PRESETS, RECIPES

    bases = {recipe: make_config(recipe=recipe) for recipe in RECIPES}
    text = (
        "# Configuration\n\nEvery choice of a run is a field: `--set section.field=value`, or a YAML or TOML file with "
    )
    text += (
        "`--config`. What is set there wins over what the data state, that over the preset, and that over the recipe.\n"
    )
    for name, section in Config.model_fields.items():
        fields = getattr(section.annotation, "model_fields", None)
        if fields is None:
            continue
        text += f"\n## {name}\n\n{inspect.getdoc(section.annotation)}\n\n"
        rows = []
        for field, info in fields.items():
            defaults = {recipe: getattr(getattr(base, name), field) for recipe, base in bases.items()}
            release, paper = defaults["release"], defaults["paper"]
            shown = code(release) + ("" if paper == release else f"; paper {code(paper)}")
            for preset, recipes in PRESETS.items():
                for recipe, values in recipes.items():
                    if f"{name}.{field}" in values:
                        whose = preset if recipe == "any" else f"{preset}, {recipe}"
                        shown += f"; {whose} {code(values[f'{name}.{field}'])}"
            rows.append([f"`{field}`", kind(info.annotation, info.metadata), shown, info.description or ""])
        text += table(["field", "type", "default", "meaning"], rows)
    return text


def commands() -> str:
    """Every command with its help and its options."""
    import typer

    from d2net.cli import app

    group: Any = typer.main.get_command(app)
    text = "# Command line\n\n`d2net COMMAND --help` says the same. Bad input is one line on standard error and exit "
    text += "status 2.\n"
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["d2net", name, *map(usage_name, arguments), "[options]"])
        text += f"\n## {name}\n\n{inspect.cleandoc(command.help or '')}\n\n```sh\n{usage}\n```\n\n"
        rows = []
        for p in command.params:
            if "--help" in p.opts:
                continue
            given = [usage_name(p)] if p in arguments else [*p.opts, *p.secondary_opts]
            default = "" if callable(p.default) or p.default in (None, False, ()) else p.default
            shown = "required" if p.required else str(default)
            rows.append([", ".join(f"`{o}`" for o in given), shown, p.help or ""])
        text += table(["option", "default", "meaning"], rows)
    return text


def usage_name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()


def ops() -> str:
    """Every public function of d2kernels: its signature and its docstring."""
    import d2kernels as d2k

    text = "# Operations\n\n`import d2kernels as d2k`. Each takes a `Ragged`, packed rows with `offsets=` (and "
    text += "`lengths=`), or a dense batch with `lengths=` or `mask=`; `d2kernels.nn` has them as modules.\n"
    for name in (n for n in d2k.__all__ if not n.startswith("_")):
        value = getattr(d2k, name)
        if not callable(value):
            continue
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))
        text += f"\n## {name}\n\n```python\nd2k.{name}{signature}\n```\n\n```text\n{inspect.getdoc(value)}\n```\n"
        if inspect.isclass(value):
            for member, method in vars(value).items():
                function = getattr(method, "__func__", method.fget if isinstance(method, property) else method)
                if not member.startswith("_") and (said := inspect.getdoc(function)):
                    text += f"\n`{member}`: {said.splitlines()[0]}\n"
    return text


def by_hand(text: str, place: Path) -> str:
    """Links between the repository's files as links between pages, or as text where a file is no page."""
    pages = {
        **{(ROOT / f"docs/{p}.md").resolve(): p for p in ("videos", "features", "data", "threads")},
        **{(ROOT / f"benchmarks/notes/{p}.md").resolve(): p for p in ("temporal_conv", "step")},
        **{(ROOT / p / "README.md").resolve(): "index" for p in (".",)},
        (ROOT / "CHANGELOG.md").resolve(): "changelog",
    }

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if "://" in target or not target:
            return match[0]
        path = (place / target).resolve()
        if not path.exists():
            raise SystemExit(f"docs: {place.relative_to(ROOT)}: {target} is not there")
        if path in pages:
            return f"[{match[1]}]({pages[path]}.md{'#' + anchor if anchor else ''})"
        return match[1]

    return re.sub(r"(?<!!)\[([^]\n]+)\]\(([^)\s]+)\)", link, text)


def write() -> list[tuple[str, str]]:
    """All pages into build/docs; their titles and names in order."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    made = [("Start", "index", by_hand((ROOT / "README.md").read_text(), ROOT))]
    for name, title in BY_HAND.items():
        folder = "benchmarks/notes" if name in ("temporal_conv", "step") else "docs"
        made.append((title, name, by_hand((ROOT / folder / f"{name}.md").read_text(), ROOT / folder)))
    made += [("Command line", "commands", commands()), ("Configuration", "configuration", configuration())]
    made += [("Operations", "ops", ops())]
    made += [("Changes", "changelog", by_hand((ROOT / "CHANGELOG.md").read_text(), ROOT))]
    for _, name, text in made:
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    return [(title, name) for title, name, _ in made]


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "python")]
    nav = "\n".join(f'  {{ "{title}" = "{name}.md" }},' for title, name in write())
    (ROOT / "build/zensical.toml").write_text(NAV.format(nav=nav), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "-f",
        str(ROOT / "build/zensical.toml"),
    ]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
