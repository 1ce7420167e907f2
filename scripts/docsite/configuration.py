"""The page of every configuration field."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin

from docsite.markup import code, table


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


def _by_method(field: str) -> str:
    """What methods make of a field, and where a preset then changes it."""
    from d2net.methods import METHODS, settings_of
    from d2net.presets import PRESETS

    shown = ""
    for method in METHODS:
        plain = settings_of(method, None)
        if field in plain:
            shown += f"; {method} {code(plain[field])}"
        for preset in PRESETS:
            values = settings_of(method, preset)
            if field in values and (field not in plain or values[field] != plain[field]):
                shown += f"; {method}, {preset} {code(values[field])}"
    return shown


def configuration() -> str:
    """Every field with its type, its default by recipe, what presets make of it, and its meaning."""
    from d2net.config import Config, make_config
    from d2net.presets import PRESETS, RECIPES

    bases = {recipe: make_config(recipe=recipe) for recipe in RECIPES}
    text = (
        "# Configuration\n\nEvery choice of a run is a field: `--set section.field=value`, or a YAML or TOML file with "
        "`--config`. What is set there wins over what the data state, that over the preset, and that over the recipe. "
        "A default stands for both recipes where one is given; presets and methods that change it follow. Equations "
        "are the paper's.\n"
    )
    top = [
        [f"`{name}`", kind(f.annotation, f.metadata), code(f.default), f.description or ""]
        for name, f in Config.model_fields.items()
        if not hasattr(f.annotation, "model_fields")
    ]
    text += "\n" + table(["field", "type", "default", "meaning"], top)
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
            shown += _by_method(f"{name}.{field}")
            rows.append([f"`{field}`", kind(info.annotation, info.metadata), shown, info.description or ""])
        text += table(["field", "type", "default", "meaning"], rows)
    return text
