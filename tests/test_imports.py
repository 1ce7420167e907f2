"""Rooms stand on one another: no file imports, at once or later or for its types, one that imports it in turn."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"d2kernels": ROOT, "d2net": ROOT / "python"}


def modules() -> dict[str, Path]:
    found = {}
    for package, root in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, known: set[str]) -> set[str]:
    """The known modules whose names a file imports; of a package's name, the package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & known or {node.module}
            names |= {node.module} if inner - known else set()
    return names & known


def test_nothing_imports_in_a_loop():
    files = modules()
    graph = {name: imported(path.read_text(), set(files)) - {name} for name, path in files.items()}
    assert len(graph) > 300 and "d2kernels.ragged" in graph["d2kernels"]
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_the_kernels_know_nothing_of_the_trainer():
    files = modules()
    for name, path in files.items():
        if name.startswith("d2kernels"):
            assert not [of for of in imported(path.read_text(), set(files)) if of.startswith("d2net")], name


@pytest.mark.parametrize("source", ["import a.b", "from a import b", "from a.b import name", "def f():\n import a.b"])
def test_every_way_to_import_is_seen(source):
    assert imported(source, {"a", "a.b", "c"}) == {"a.b"}
