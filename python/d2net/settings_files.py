"""YAML and TOML of settings, read as plain trees."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from d2net.data.files import DataError, read_text, reading


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, unlike 1.1's: 1e-4 is one, 0:1:0.1 is not. No key twice, and no aliases: they grow."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise DataError(f"an alias (*{self.peek_event().anchor}) is not read here; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise DataError(f"key {key.value!r} occurs twice, the second time in line {key.start_mark.line + 1}")
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] not in _NUMBERS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^{_pattern}$"), list("-+.0123456789"))


def yaml_value(text: str) -> Any:
    """One YAML value; whatever YAML's own errors are, and DataError, come through."""
    return yaml.load(text, _Loader)


def read_settings(path: str | os.PathLike) -> dict:
    """A tree of settings; TOML, by its suffix, has no null: "" stands for None.

    Raises:
        DataError: not there, not YAML or TOML, a key twice, or not a tree of fields.
    """
    is_toml = Path(path).suffix.lower() == ".toml"
    with reading(path, "valid TOML" if is_toml else "valid YAML"):
        text = read_text(path)
        tree = _null(tomllib.loads(text)) if is_toml else yaml_value(text)
        if not isinstance(tree, dict):
            raise DataError(f"{path} must hold sections of fields, got {type(tree).__name__}")
        return tree


def _null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _null(v) for k, v in value.items()}
    return None if value == "" else value
