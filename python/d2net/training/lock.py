"""A folder that is written to is one process's at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:
    msvcrt = None  # type: ignore[assignment]

FILE = ".lock"
_held: set[int] = set()
BEYOND = 2**30  # Windows keeps others from reading what is locked: a byte past all content


def _try_lock(file: int) -> None:
    """Locks an open file until it is closed, by a crash too; leaves its position at the beginning.

    Raises:
        BlockingIOError, PermissionError: another holder is alive. OSError: nothing can be locked there.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    if msvcrt is None:
        raise OSError(errno.ENOSYS, "this system has no locks")
    os.lseek(file, BEYOND, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    finally:
        os.lseek(file, 0, os.SEEK_SET)


class FolderInUse(ValueError):
    """Another process works in the folder."""


class FolderLock:
    """Held from creation to `release`, or to the end of the process, however that ends.

    Args:
        verb: what is done in the folder, for messages.

    Raises:
        FolderInUse: another holder is alive; the message names its process.
    """

    def __init__(self, folder: Path, verb: str = "train"):
        self._file: int | None = None
        file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _try_lock(file)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(file, 32).decode("ascii", "replace").strip()
            os.close(file)
            who = f"process {holder}" if holder else "another process"
            raise FolderInUse(f"{who} is {verb}ing in {folder}; wait for it to end, or choose another --out") from error
        except OSError as error:  # a file system without locks
            os.close(file)
            text = f"{folder} cannot be locked ({error.strerror}): do not {verb} there twice at once"
            warnings.warn(text, stacklevel=3)
            return
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        _held.add(file)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self._file is not None:
            _held.discard(self._file)
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.release()


def _let_go() -> None:
    """A forked child shares the lock and would keep it when its parent is gone."""
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
