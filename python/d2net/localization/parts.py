"""Parts of a long localization in a folder of their own: what is done is not done again, by whichever process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2net.data.activations import VideoActivations, save_activations
from d2net.data.detections.binary import read_npz, write_npz
from d2net.data.detections.model import Detections
from d2net.data.files import DataError, write_atomically
from d2net.training.lock import FILE as LOCK
from d2net.training.lock import FolderLock

_KEY = "parts.json"


class Parts:
    """Part i is `i.npz`, its activations `i.activations.npz`; each is whole or not there.

    Args:
        out: what is made of them; they lie beside it under a hidden name.
        key: what decides them; those that another key has left are removed by `begin`.
    """

    def __init__(self, out: Path, count: int, key: Mapping[str, Any], activations: bool):
        self.folder = out.with_name(f".{out.name}.d2net-parts")
        self.count, self.activations = count, activations
        text = json.dumps({**key, "parts": count, "activations": activations}, sort_keys=True, default=str)
        self._lock: FolderLock | None = None
        self.key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def begin(self) -> int:
        """Makes the folder, for this process to write to or lead others; how many parts an earlier run has left.

        Raises:
            FolderInUse: another process makes the same file.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot write to the folder {self.folder.parent}: {error.strerror}") from error
        self._lock = FolderLock(self.folder, "localiz")
        same = self._held_key() == self.key
        for path in self.folder.iterdir():
            if path.name != LOCK and (not same or path.name.endswith(".tmp")):  # of a process that was killed
                path.unlink(missing_ok=True)
        write_atomically(self.folder / _KEY, lambda file: file.write(json.dumps({"key": self.key}).encode()))
        return len(self.done())

    def check_shared(self) -> None:
        """Raises DataError where the folder that the leading process has made is not seen here."""
        if self._held_key() != self.key:
            raise DataError(
                f"{self.folder} is not what the first process made: all need the same arguments, inputs and packages, "
                "and --out on a disk that all machines share"
            )

    def _held_key(self) -> str | None:
        try:
            return json.loads((self.folder / _KEY).read_bytes())["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def done(self) -> set[int]:
        """The parts that are there; activations are written before detections."""
        with os.scandir(self.folder) as entries:
            names = {e.name for e in entries}
        return {i for i in range(self.count) if f"{i}.npz" in names}

    def save(self, i: int, detections: Detections, activations: Mapping[str, VideoActivations]) -> None:
        if self.activations:
            save_activations(self.folder / f"{i}.activations.npz", dict(activations))
        write_npz(self.folder / f"{i}.npz", detections.videos, detections.classes, [detections])

    def detections(self) -> Iterator[Detections]:
        """Of each part, in order.

        Raises:
            DataError: a part is not there.
        """
        for i in range(self.count):
            if not (path := self.folder / f"{i}.npz").exists():
                raise DataError(
                    f"{self.folder} lacks part {i} of {self.count}: all processes must write to one folder, such as of "
                    "a disk that all machines share"
                )
            yield read_npz(path)

    def activation_files(self) -> list[Path]:
        return [self.folder / f"{i}.activations.npz" for i in range(self.count)]

    def remove(self, *, empty: bool = False) -> None:
        """Removes the folder; empty: only where no part is done."""
        if self._lock is not None:
            self._lock.release()
        with suppress(OSError):
            if not empty or not self.done():
                shutil.rmtree(self.folder)


def shares(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Indices of sizes in `count` lists of nearly the same sum, each rising: the largest first, to the least laden."""
    laden = [(0, k) for k in range(count)]
    found: list[list[int]] = [[] for _ in range(count)]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        total, k = laden[0]
        found[k].append(i)
        laden[0] = (total + sizes[i], k)
        laden.sort()
    return [sorted(own) for own in found]
