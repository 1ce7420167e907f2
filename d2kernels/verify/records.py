"""Committed GPU runs: which kernel hash passed on which GPU. Standard library alone: setup.py loads it as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Vouched(NamedTuple):
    """One kernel that passed the GPU tests: its hash, and the GPU with its architecture ("sm_90")."""

    kernel: str
    sha256: str
    arch: str
    gpu: str


def _of(tree: object) -> Iterator[Vouched]:
    if not isinstance(tree, dict):
        return
    kernels, arch, gpu = tree.get("kernels"), tree.get("arch"), tree.get("device")
    for name, entry in kernels.items() if isinstance(kernels, dict) else ():
        if isinstance(entry, dict) and entry.get("passed") is True:
            yield Vouched(name, str(entry.get("sha256")), str(arch), str(gpu))


def committed(results: Path) -> list[Vouched]:
    """What the GPU checks' JSON files in a folder vouch for.

    Raises:
        ValueError: a file there is no JSON, naming it.
    """
    found: dict[Vouched, None] = {}
    for path in sorted(results.glob("*.json")):
        try:
            tree = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no GPU check's JSON: {error}") from None
        found |= dict.fromkeys(_of(tree))
    return list(found)
