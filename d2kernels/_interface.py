"""Whether a checkout's extension was compiled from what its Python now calls. Needs the standard library alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FOLDERS, KINDS = ("csrc/bindings", "csrc/include"), (".h", ".cuh", ".cpp", ".cu")


def interface(root: Path) -> str:
    """A digest of what the extension's functions and their arguments are declared in."""
    found = hashlib.sha256()
    every = (path for folder in FOLDERS for path in (root / folder).rglob("*"))
    for path in sorted(path for path in every if path.suffix in KINDS and path.name[0] != "."):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def stale(package: Path) -> str | None:
    """Why the extension beside this package may not be called, or None; an installed one has no sources beside it."""
    if not (package.parent / FOLDERS[0]).is_dir():
        return None
    try:
        written = json.loads((package / "_compiled.json").read_text())["interface"]
    except (OSError, ValueError, KeyError, TypeError):
        written = None
    if written == interface(package.parent):
        return None
    return "the compiled extension is of other sources than this checkout's; compile it again by make install"
