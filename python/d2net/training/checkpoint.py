"""Checkpoints: written atomically, read with their checksums and without executing anything they hold."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from d2net.data.files import DataError, shown, write_atomically

FORMAT = "d2net-checkpoint-1"
FILE = "checkpoint.pt"


_DAMAGED = (
    RuntimeError, ValueError, TypeError, EOFError, OSError, LookupError, AttributeError, zipfile.BadZipFile
)  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


def save_checkpoint(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Writes beside `path`, then replaces it in one step: an interrupted save leaves the previous one whole.

    Raises:
        CheckpointError: the disk is full, or nothing can be written there.
    """
    try:
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))
    except DataError as error:
        raise CheckpointError(str(error)) from error
    except RuntimeError as error:
        raise CheckpointError(f"cannot write {path}: {_first_line(error)}; what was there before is whole") from error


def read_checkpoint(path: str | os.PathLike, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint file, or the one in a run's folder.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint, or holding anything but tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            _verify(file)
            content = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except pickle.UnpicklingError as error:
        reason = "it is truncated or holds more than tensors and plain values"
        raise CheckpointError(f"{path} was refused: {reason} (nothing in it was executed)") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {_first_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a d2net checkpoint ({FORMAT})")
    _upgrade(content)
    _check_kinds(path, content)
    return content


def _count(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(n, str) for n in value) and len(set(value)) == len(value)


def _fields(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) for k in value)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("width", "streams"), (_count(1), "a number of at least 1")),
    **dict.fromkeys(("iteration", "counted"), (_count(0), "a number of steps")),
    **dict.fromkeys(("classes", "held_out"), (_names, "distinct names")),
    **dict.fromkeys(("config", "model", "rng", "environment", "collapse"), (_fields, "fields by name")),
    **dict.fromkeys(("data", "held_out_labels", "held_out_segments"), (lambda v: isinstance(v, str), "a digest")),
    **dict.fromkeys(
        ("features", "held_out_features"),
        (lambda v: _fields(v) and all(_fields(v.get(k)) for k in ("lengths", "digests")), "lengths and digests"),
    ),
    "sources": (
        lambda v: _fields(v) and all(isinstance(v.get(k), str) for k in ("features", "annotations", "crops")),
        "where features and annotations were",
    ),
    "timing": (lambda v: v is None or _fields(v), "the fields of a timing"),
    "extraction": (
        lambda v: v is None or (_fields(v) and isinstance(v.get("backbone"), str)),
        "what made the features, its backbone among them",
    ),
    "timing_explicit": (lambda v: isinstance(v, bool), "true or false"),
    "optimizer": (lambda v: _fields(v) and {"state", "param_groups"} <= set(v), "an optimizer's state"),
    "sums": (lambda v: isinstance(v, torch.Tensor), "a tensor"),
    "best": (lambda v: isinstance(v, float), "a score"),
}


def _check_kinds(path: Path, content: dict[str, Any]) -> None:
    """Raises CheckpointError where an entry is of another kind than what is written; a missing one is its user's."""
    for name, (holds, kind) in _KINDS.items():
        if name in content and not holds(content[name]):
            raise CheckpointError(
                f"{path} does not fit this version of d2net: its {name} must be {kind}, got {shown(content[name])}"
            )


def _upgrade(content: dict[str, Any]) -> None:
    """Fills in what earlier revisions did not write because it had one value."""
    config = content.get("config")
    train = config.get("train") if isinstance(config, dict) else None
    if isinstance(train, dict) and "holdout" in train:
        train.setdefault("holdout_seed", train.get("seed", 0))
    every = train.get("log_every") if isinstance(train, dict) else None
    iteration = content.get("iteration")
    if "counted" not in content and isinstance(every, int) and every > 0 and isinstance(iteration, int):
        content["counted"] = iteration % every


def _verify(file: IO[bytes]) -> None:
    """Compares every member with its checksum, which torch.load does not; leaves the file at its beginning."""
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("its members are compressed, which torch.save never does")
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
    file.seek(0)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__


@contextmanager
def usable(path: str | os.PathLike) -> Iterator[None]:
    """Turns what a checkpoint's content lacks or does not fit into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error.args[0]!r}: it is not a whole d2net checkpoint") from error
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{path} does not fit this version of d2net: {_first_line(error)}") from error
