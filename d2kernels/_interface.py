"""Whether a checkout's extension was compiled from what its Python now calls. Needs the standard library alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FOLDERS = ("csrc/bindings", "csrc/include")


def interface(root: Path) -> str:
    """A digest of what the extension's functions and their arguments are declared in."""
    found = hashlib.sha256()
    for path in sorted(p for folder in FOLDERS for p in (root / folder).rglob("*") if p.is_file()):
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
