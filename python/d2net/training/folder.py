"""A run's folder: what it may hold before training, and its log."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from d2net.data.files import check_destination, write_atomically
from d2net.training.checkpoint import FILE, CheckpointError
from d2net.training.lock import FILE as LOCK

HOLDOUT = "holdout.json"
RESTARTS = "restarts.json"
TRACKERS, EVENTS = "trackers.json", "tensorboard"  # of --log
OURS = (FILE, "best.pt", "log.jsonl", "config.yaml", HOLDOUT, RESTARTS)


class RunExists(ValueError):
    """The output folder already holds a run."""


def check_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Makes the run's folder; one that holds a run needs `resume` or `overwrite`, and nothing in it changes here.

    Raises:
        RunExists: neither was given. CheckpointError: nothing to resume. DataError: nothing can be written there.
    """
    held = [p for name in OURS if name != "config.yaml" and (p := out / name).exists()]
    if resume and not (out / FILE).exists():
        raise CheckpointError(f"nothing to resume: there is no {out / FILE}; pass --overwrite to start again")
    if held and not resume and not overwrite:
        how = "--resume or --overwrite" if (out / FILE).exists() else "--overwrite: it has no checkpoint to resume from"
        raise RunExists(f"{out} already holds a run ({held[0].name}); pass {how}")
    for name in OURS:
        check_destination(out / name)


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, inner ones first, that hold nothing but a lock."""
    for folder in folders:
        with suppress(OSError):
            if folder.is_dir() and {p.name for p in folder.iterdir()} == {LOCK}:
                (folder / LOCK).unlink()
            folder.rmdir()


def run_files(path: str | os.PathLike) -> list[Path]:
    """What is read of a checkpoint: the file, or all that a run's folder holds of the run."""
    path = Path(path)
    folders = [path, *sorted(path.glob("seed-*"))] if path.is_dir() else []
    return [folder / name for folder in folders for name in OURS] or [path]


def clear_folder(out: Path) -> None:
    """Removes what the run that the folder holds has beside its checkpoint."""
    for name in set(OURS) - {FILE}:
        (out / name).unlink(missing_ok=True)
    (out / TRACKERS).unlink(missing_ok=True)
    shutil.rmtree(out / EVENTS, ignore_errors=True)


def clear_temporaries(out: Path) -> None:
    """Removes what an interrupted save has left; for the holder of the folder's lock."""
    for name in (*OURS, TRACKERS):
        for path in (*out.glob(f"{name}*.tmp"), *out.glob(f".{name}.*.tmp")):
            path.unlink(missing_ok=True)


def trim_log(path: Path, iteration: int) -> None:
    """Drops what the log says of iterations after this one, which a resumed run repeats, and a line cut short."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, lambda file: file.write("".join(kept).encode()))


def write_holdout(out: Path, names: Sequence[str]) -> None:
    """Leaves the held-out videos' names in the folder; no file where there are none."""
    if names:
        text = json.dumps({"held_out": list(names)}, indent=1)
        write_atomically(out / HOLDOUT, lambda file: file.write(text.encode()))
    else:
        (out / HOLDOUT).unlink(missing_ok=True)
