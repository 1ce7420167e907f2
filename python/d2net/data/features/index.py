"""Shapes and places of many arrays, kept between starts: opening a million files then reads no header."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.features.headers import Shape
from d2net.data.files import DataError, write_atomically

LEAST = 1000  # arrays; fewer are opened as fast without
_FORMAT = 4
_SETTLED = 2.0  # seconds; what changed later than that may change again within one tick of the clock


class Kept(NamedTuple):
    """What an index holds of n arrays.

    code: (n,) int32, which of `kinds` each is. names: n of them, none where who asks knows them. places: (n, k) int64,
    where in the file each lies, in numbers that its reader understands. stated: what else the file says.
    """

    code: np.ndarray
    kinds: list[Shape]
    names: list[str]
    places: np.ndarray
    stated: dict[str, Any]


def places(path: Path) -> list[Path]:
    """Where the index of these features may lie, the first choice first: beside them as `.NAME.d2net-index`, or in the
    user's cache where nothing can be written there."""
    real = Path(os.path.realpath(path))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    name = hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest()
    return [real.parent / f".{real.name}.d2net-index", cache / "d2net" / "features" / f"{name}.index"]


def load(path: Path, state: list[Any]) -> Kept | None:
    """The index of these features; None where there is none that is whole and was made of the same `state`.

    Args:
        state: what the features' file or folder looks like, as `file_state` and `Listing` have it.
    """
    return next((kept for place in places(path) if (kept := _load(place, state)) is not None), None)


def save(path: Path, state: list[Any], kept: Kept) -> None:
    """Keeps it for the next start, where it is much, has settled, and there is a place that can be written to."""
    newest = max(state[0], default=0) / 1e9
    if len(kept.code) < LEAST or time.time() - newest < _SETTLED:
        return
    text = "".join(kept.names).encode("utf-8", "surrogatepass")
    lengths = np.fromiter(map(len, kept.names), np.uint32, len(kept.names))
    head = {
        "state": state,
        "stated": kept.stated,
        "kinds": [[dtype.str, *shape] for shape, dtype in kept.kinds],
        "arrays": len(kept.code),
        "names": len(kept.names),
        "places": list(kept.places.shape),
    }
    columns = [kept.code.astype("<i4"), kept.places.astype("<i8"), lengths.astype("<u4")]
    body = json.dumps(head).encode() + b"\n" + b"".join([*(c.tobytes() for c in columns), text])
    for place in places(path):
        try:
            write_atomically(place, lambda file: file.writelines([_seal(body), body]))
        except DataError:
            continue
        return


def forget(path: str | os.PathLike) -> None:
    """Removes the index of these features, whose arrays turned out to have changed."""
    for place in places(Path(path)):
        try:
            place.unlink(missing_ok=True)
        except OSError:
            continue


def file_state(path: Path) -> list[Any]:
    """[[time of change, ns], size, number] of one file."""
    stat = os.stat(path)
    return [[stat.st_mtime_ns], stat.st_size, stat.st_ino]


def _seal(body: bytes | memoryview) -> bytes:
    return f"d2net-index {_FORMAT} {hashlib.blake2b(body, digest_size=16).hexdigest()}\n".encode()


def _load(place: Path, state: list[Any]) -> Kept | None:
    try:
        whole = place.read_bytes()
        begin = whole.index(b"\n") + 1
        if whole[:begin] != _seal(memoryview(whole)[begin:]):
            return None
        at = whole.index(b"\n", begin) + 1
        tree = json.loads(whole[begin:at])
        if tree["state"] != state:
            return None
        code, at = _column(whole, at, "<i4", [tree["arrays"]])
        found, at = _column(whole, at, "<i8", tree["places"])
        lengths, at = _column(whole, at, "<u4", [tree["names"]])
        text = whole[at:].decode("utf-8", "surrogatepass")
        kinds = [(tuple(shape), np.dtype(kind)) for kind, *shape in tree["kinds"]]
        ends = np.cumsum(lengths, dtype=np.int64).tolist()
        names = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if len(code) and not 0 <= code.min() <= code.max() < len(kinds):
            return None
        return Kept(code, kinds, names, found, tree["stated"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None


def _column(whole: bytes, at: int, kind: str, shape: Sequence[int]) -> tuple[np.ndarray, int]:
    """A copy of the column that begins at this byte, and where the next one does."""
    column = np.frombuffer(whole, kind, math.prod(shape), at).reshape(shape).copy()
    return column, at + column.nbytes
