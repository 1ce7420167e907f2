"""Reading JSON and writing files so that an interruption leaves the earlier one whole."""

from __future__ import annotations

import json
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# What reading a damaged .npz or .npy can raise.
DAMAGED = (
    ValueError, TypeError, OSError, EOFError, SyntaxError, RuntimeError, MemoryError, KeyError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


class DataError(ValueError):
    """Input that cannot be used; the message names the file, the entry, its value and what to do."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise DataError(f"key {twice!r} occurs twice")
    return tree


def read_json(path: str | os.PathLike) -> Any:
    """Parses JSON; duplicate keys are an error."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=_unique)
    except FileNotFoundError as error:
        raise DataError(f"no file {path}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is truncated or not JSON: {error}") from error


def check_destination(path: str | os.PathLike) -> None:
    """Makes the folder of `path`; raises DataError where no file can be written there."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"cannot write to the folder {path.parent}: {error.strerror}; choose another place") from error


def write_atomically(path: str | os.PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Calls write(file) on a temporary file beside `path`, which it then replaces; raises DataError if it cannot."""
    path = Path(path)
    check_destination(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            text = f"cannot write {path}: {error.strerror}; what was there before is whole"
            raise DataError(text) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
