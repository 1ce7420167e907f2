"""Results of checks in the user's cache folder: one JSON file a machine, and a lock that a crash releases."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from d2kernels.verify.machine import Machine


class Result(NamedTuple):
    """How a kernel's check ended; error and the file with details where it failed."""

    passed: bool
    error: str = ""
    details: str = ""
    date: str = ""


def folder() -> Path:
    """$XDG_CACHE_HOME/d2kernels/verify, or ~/.cache/d2kernels/verify."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "d2kernels" / "verify"


def _result(entry: Any) -> Result | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("passed"), bool):
        return None
    words = {name: entry.get(name, "") for name in ("error", "details", "date")}
    return Result(entry["passed"], **words) if all(isinstance(w, str) for w in words.values()) else None


def read(machine: Machine) -> dict[str, Result]:
    """Kernel hash to result; what is not there, not readable or not ours counts as not checked yet."""
    try:
        tree = json.loads((folder() / machine.file_name()).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(tree, dict) or tree.get("machine") != machine._asdict():
        return {}
    entries = tree.get("results")
    found = {sha: _result(entry) for sha, entry in entries.items()} if isinstance(entries, dict) else {}
    return {sha: result for sha, result in found.items() if result is not None}


def add(machine: Machine, results: dict[str, Result]) -> None:
    """Adds results to the machine's file; readers see the old file or the new one, whole.

    Raises:
        OSError: the folder cannot be written to.
    """
    kept = read(machine) | results
    tree = {"machine": machine._asdict(), "results": {sha: result._asdict() for sha, result in kept.items()}}
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=place, prefix=".part-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(tree, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place / machine.file_name())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked() -> Iterator[bool]:
    """Holds the machine's one check for this process, waiting for whoever has it; False where no lock can be had."""
    with contextlib.ExitStack() as held:
        try:
            import fcntl

            place = folder()
            place.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(place / "lock", "a"))
            fcntl.flock(file, fcntl.LOCK_EX)
            got = True
        except (ImportError, OSError):  # no folder to write to, or a file system without locks
            got = False
        yield got  # closing releases it, as the end of the process does, however it ends
