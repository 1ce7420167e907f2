"""Shapes and places of many arrays, kept between starts: opening 50 000 files then reads no header."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.files import DataError, write_atomically

LEAST = 1000  # arrays; fewer are opened as fast without
_FORMAT = 3
_SETTLED = 2.0  # seconds; what changed later than that may change again within one tick of the clock
_SAMPLE = 64  # files of a folder whose size and time are compared

Shape = tuple[tuple[int, ...], np.dtype]


class Index:
    """Headers by key, of the index kept for `path` where that was made of the same `state`, else read anew.

    It lies beside the features as `.NAME.d2net-index`, or in the user's cache where nothing can be written there. One
    that is damaged counts as none.

    places: where in the file an array lies, in numbers that its reader understands. stated: what else the file says.

    Args:
        state: what the features' file or folder looks like, as `file_state` and `folder_state` give it.
    """

    def __init__(self, path: Path, state: list[Any]):
        self.path, self.state = path, state
        self.known: dict[str, Shape] = {}
        self.places: dict[str, list[int]] = {}
        self.stated: dict[str, Any] = {}
        self.made = False
        for place in places(path):
            if (found := _load(place, state)) is not None:
                self.known, self.places, self.stated = found
                self.made = True
                return

    def keys(self) -> Collection[str] | None:
        """All arrays there are, None where no index says so."""
        return self.known.keys() if self.made else None

    def add(self, key: str, shape: Shape, place: Sequence[int] = ()) -> None:
        self.known[key] = shape
        if place:
            self.places[key] = list(place)
        self.made = False

    def header(self, key: str, read: Callable[[], Shape]) -> Shape:
        """Shape and type of an array; read() gives those that are not known."""
        if key not in self.known:
            self.add(key, read())
        return self.known[key]

    def save(self) -> None:
        """Keeps what was read anew, where it is much and has settled."""
        newest = max((when for when in self.state[0]), default=0) / 1e9
        if self.made or len(self.known) < LEAST or time.time() - newest < _SETTLED:
            return
        kinds = {dtype: i for i, dtype in enumerate(dict.fromkeys(d.str for _, d in self.known.values()))}
        body = json.dumps(
            {
                "state": self.state,
                "stated": self.stated,
                "kinds": list(kinds),
                "places": self.places,
                "arrays": {key: [kinds[dtype.str], *shape] for key, (shape, dtype) in self.known.items()},
            }
        ).encode()
        for place in places(self.path):
            try:
                write_atomically(place, lambda file: file.write(_seal(body) + body))
            except DataError:
                continue
            self.made = True
            return


def places(path: Path) -> list[Path]:
    """Where the index of these features may lie, the first choice first."""
    real = Path(os.path.realpath(path))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    name = hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest()
    return [real.parent / f".{real.name}.d2net-index", cache / "d2net" / "features" / f"{name}.index"]


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


def folder_state(files: Iterable[Path]) -> list[Any]:
    """[[times of change of the folders, ns], digest of their files' names and numbers, sizes and times of some].

    No file but those few is asked for its size and time. What rewrites others in place is noticed when they are read.
    """
    files = list(files)
    folders = sorted({f.parent for f in files})
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        digest.update(os.fsencode(folder.name) + b"\0")
        with os.scandir(folder) as entries:
            # Elsewhere than on POSIX the number costs a call for each.
            held = sorted((e.name, e.inode() if os.name == "posix" else 0) for e in entries)
        digest.update(repr(held).encode())
    some = [files[i] for i in dict.fromkeys(np.linspace(0, len(files) - 1, min(_SAMPLE, len(files))).astype(int))]
    sample = [[stat.st_size, stat.st_mtime_ns] for stat in map(os.stat, some)]
    return [[os.stat(f).st_mtime_ns for f in folders], digest.hexdigest(), sample]


def _seal(body: bytes) -> bytes:
    return f"d2net-index {_FORMAT} {hashlib.blake2b(body, digest_size=16).hexdigest()}\n".encode()


def _load(place: Path, state: list[Any]) -> tuple[dict[str, Shape], dict[str, list[int]], dict[str, Any]] | None:
    try:
        whole = place.read_bytes()
        first, _, body = whole.partition(b"\n")
        if first + b"\n" != _seal(body):
            return None
        tree = json.loads(body)
        if tree["state"] != state:
            return None
        kinds = [np.dtype(kind) for kind in tree["kinds"]]
        known = {key: (tuple(shape), kinds[kind]) for key, (kind, *shape) in tree["arrays"].items()}
        return known, tree["places"], tree["stated"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None
