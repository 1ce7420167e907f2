"""How far a file that is being written is: a line that says what it is, then the checksum of each finished video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from d2net.data.features.store import FeatureError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Journal:
    """One process's at a time, from `with` on.

    going_on: whether an earlier run of the same job left it. sums: CRC-32 of the videos that are finished.

    Raises:
        FeatureError: another process writes the same output.
    """

    def __init__(self, path: Path, job: str, out: Path):
        self.path, self.job, self.out = path, job, out
        self.sums: list[int] = []
        self.going_on = False
        self._saved = 0

    def __enter__(self) -> Journal:
        self._file: IO[bytes] = open(self.path, "a+b")
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise FeatureError(f"another process writes {self.out}; wait for it, or give another name") from error
            except OSError:
                pass  # a file system without locks
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        if lines[0] == self.job.encode() and len(lines) > 1:
            self.going_on = True
            self.sums = _numbers(lines[1:-1])  # the last line may be cut
            self._rewrite()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def forget(self) -> None:
        """Before what it speaks of is removed: another job may be stopped before it begins."""
        self._file.truncate(0)
        os.fsync(self._file.fileno())

    def begin(self) -> None:
        """Of a job that starts from its first video."""
        self.sums = []
        self._rewrite()

    def add(self, checksum: int) -> None:
        self.sums.append(checksum)

    def save(self) -> None:
        """To be called when the data are on the disk."""
        self._file.write(b"".join(b"%08x\n" % s for s in self.sums[self._saved :]))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._saved = len(self.sums)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        self._file.truncate(0)
        self._file.write(self.job.encode() + b"\n")
        self._saved = 0
        self.save()


def _numbers(lines: list[bytes]) -> list[int]:
    """As many as are whole."""
    found = []
    for line in lines:
        if len(line) != 8 or line.strip(b"0123456789abcdef"):
            break
        found.append(int(line, 16))
    return found
