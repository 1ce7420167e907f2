"""Rows that become an .npy as they come, and the folder that holds them."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2net.data.features.extracted import LOG, Extracted, Log, read_log, video_line, write_log
from d2net.data.files import DataError, check_destination

PART = ".part"


class RowWriter:
    """Writes (s, d) float32 rows to a temporary file in `folder`, which `finish` names; last: the row before.

    Args:
        number: tells writers of one folder apart.
    """

    def __init__(self, folder: Path, number: int, width: int):
        self.width, self.rows, self.last = width, 0, np.zeros(width, np.float32)
        self._part = folder / f".{number}{PART}"
        self._file: IO[bytes] = open(self._part, "wb")  # noqa: SIM115
        self._file.write(self._header())

    def _header(self) -> bytes:
        # Padded, so that the number of rows can be put in at the end.
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.rows}, {self.width}), }}"
        return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n"

    def add(self, row: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(row, "<f4").tobytes())
        self.rows, self.last = self.rows + 1, row

    def finish(self, name: str) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._part.with_name(name))

    def drop(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class Folder:
    """The folder of one extraction: what is in it already, and what is added.

    Raises:
        DataError: it holds something else, or features of another kind.
    """

    def __init__(self, path: Path, identity: dict[str, Any], overwrite: bool = False):
        self.path = path
        check_destination(path / LOG)
        self._old: list[str] = []
        self.log = self._begun(identity, overwrite)
        self._file: IO[bytes] | None = None

    def _begun(self, identity: dict[str, Any], overwrite: bool) -> Log:
        place = self.path / LOG
        held = [e.name for e in sorted(self.path.iterdir()) if not e.name.startswith(".")]
        if not place.exists():
            if held:
                raise DataError(
                    f"{self.path} holds {held[0]!r} and no features of d2net extract; give --out a folder of their own"
                )
            return Log(identity, {})
        if overwrite:
            with suppress(DataError):  # of a log that says nothing, files that get no new content stay and are not read
                self._old = [entry.file for entry in read_log(place).videos.values()]
            return Log(identity, {})
        log = read_log(place)
        differ = [k for k in {**log.identity, **identity} if log.identity.get(k) != identity.get(k)]
        if differ:
            k = differ[0]
            raise DataError(
                f"{self.path} holds features whose {k} is {log.identity.get(k)!r}, not {identity.get(k)!r}; give "
                "another --out, or --overwrite"
            )
        return log

    def start(self) -> None:
        """Removes what is overwritten and what an interruption left, and opens the log to add to."""
        for name in self._old:
            (self.path / name).unlink(missing_ok=True)
        for part in self.path.glob(f".*{PART}"):
            part.unlink(missing_ok=True)
        there = {n: e for n, e in self.log.videos.items() if (self.path / e.file).is_file()}
        self.log = Log(self.log.identity, there)
        write_log(self.path / LOG, self.log)
        self._file = open(self.path / LOG, "ab")  # noqa: SIM115

    def file_name(self, video: str) -> str:
        """The video's name where files may be called so."""
        try:
            plain = len(video.encode()) <= 200
        except UnicodeEncodeError:
            plain = False
        if plain and video.isprintable() and not video.startswith("."):
            return f"{video}.npy"
        return f"video-{hashlib.sha256(os.fsencode(video)).hexdigest()[:16]}.npy"

    def add(self, entry: Extracted) -> None:
        """Its features are in place."""
        assert self._file is not None
        self.log.videos[entry.video] = entry
        self._file.write(video_line(entry).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Closes the log, its videos by name, so that the same videos leave the same bytes."""
        if self._file is not None:
            self._file.close()
            write_log(self.path / LOG, self.log)
            self._file = None
