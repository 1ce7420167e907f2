"""Writing features video by video: a stopped run goes on where it was, and what is unfinished has another name."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from d2net.data.features.index import forget
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.writing.folder import FolderWriter
from d2net.data.features.writing.hdf5 import Hdf5Writer
from d2net.data.features.writing.journal import Journal
from d2net.data.features.writing.npz import NpzWriter
from d2net.data.features.writing.plan import Plan, Writer, converted, make_plan
from d2net.data.features.writing.tensors import SafetensorsWriter
from d2net.data.files import check_destination, check_outputs
from d2net.terminal import Bar

SECONDS, BYTES = 5.0, 1 << 28  # between two saves of how far it is

_WRITERS: dict[str, type[Writer]] = {
    ".npz": NpzWriter, ".h5": Hdf5Writer, ".hdf5": Hdf5Writer, ".safetensors": SafetensorsWriter, "": FolderWriter,
}  # fmt: skip


class Written(NamedTuple):
    """path; videos; resumed: how many of them an earlier run had written; notes: what was changed, in words."""

    path: Path
    videos: int
    resumed: int
    notes: list[str]


def write_features(
    out: str | os.PathLike,
    store: FeatureStore,
    *,
    dtype: str | None = None,
    timing: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Written:
    """Writes every video of `store` to `out`, whose name decides the format; at most one video is in memory.

    .npz, .h5 or .hdf5, .safetensors, or a folder of <video>.npy. It is laid out in full beside `out` under a hidden
    name, filled, and renamed at the end. Stopped, it goes on where it was when called alike.

    Args:
        dtype: float16, bfloat16 (safetensors only) or float32; as in the store by default.
        timing: fps, stride, snippet_frames, snippet_seconds; what the store states by default.

    Raises:
        FeatureError: `out` is there (a file, without overwrite), is what is read, or cannot hold a name or a value.
        KeyboardInterrupt: stopped; the message says how far it is.
    """
    out = Path(out).resolve() if os.path.islink(out) else Path(out)
    make = _WRITERS.get(out.suffix.lower())
    if make is None:
        raise FeatureError(f"{out}: features are written as .npz, .h5, .safetensors or a folder, not as {out.suffix}")
    plan = make_plan(store, out, dtype, dict(store.stated if timing is None else timing), make)
    _check(out, store, plan, overwrite)
    check_destination(out.with_name(f".{out.name}.journal"))
    partial = _partial(out)
    with Journal(out.with_name(f".{out.name}.journal"), plan.job, out) as journal:
        writer = make(partial, plan)
        try:
            if not (journal.going_on and writer.holds(len(journal.sums))):
                journal.forget()  # first: of what is removed, nothing is done
                _remove(partial)
                writer.lay_out()
                with writer:
                    writer.flush()
                journal.begin()
            resumed = len(journal.sums)
            _fill(writer, journal, store, plan, progress)
            writer.finish(journal.sums)
            if out.is_dir():
                out.rmdir()  # empty, as checked
            os.replace(partial, out)
            forget(partial)
        except OSError as error:
            text = f"cannot write {out}: {error.strerror or error}; what is written is kept: the same command goes on"
            raise FeatureError(text) from error
        except ValueError:  # of the data: once they are mended, the job is another
            _remove(partial)
            journal.remove()
            raise
        journal.remove()
    return Written(out, len(plan.names), resumed, plan.notes)


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.stem}.partial{out.suffix}")


def _check(out: Path, store: FeatureStore, plan: Plan, overwrite: bool) -> None:
    real = os.path.realpath(out)
    if plan.folder:
        if out.is_dir() and os.listdir(out):
            raise FeatureError(f"{out} is a folder that holds files; give the name of a new one")
        if out.exists() and not out.is_dir():
            raise FeatureError(f"{out} is a file; give the name of a new folder")
        check_destination(out.parent / f".{out.name}.journal", make=False)
    else:
        check_outputs([out], [])
    for source in store.sources():
        if os.path.realpath(source) == real:
            raise FeatureError(f"{out} is what is read; give another name to write to")
    if os.path.isdir(store.source) and os.path.commonpath([real, os.path.realpath(store.source)]) == os.path.realpath(
        store.source
    ):
        raise FeatureError(f"{out} lies in {store.source}, which is read; give another place to write to")
    if out.is_file() and not overwrite:
        raise FeatureError(f"{out} is there; say --overwrite to replace it, or give another name")
    free = shutil.disk_usage(next(p for p in out.absolute().parents if p.exists())).free
    if plan.size > free and not _partial(out).exists():
        raise FeatureError(f"{out}: {plan.size / 1e9:.1f} GB are to be written, and {free / 1e9:.1f} GB are free there")


def _fill(writer: Writer, journal: Journal, store: FeatureStore, plan: Plan, progress: bool) -> None:
    done, last, waiting = len(journal.sums), time.monotonic(), 0
    bar = Bar("write", len(plan.names), unit="video", done=done, show=progress)
    try:
        with bar, writer:
            try:
                for i in range(done, len(plan.names)):
                    raw = converted(store[plan.names[i]], plan.dtypes[i], f"{store.source}: {plan.names[i]!r}")
                    writer.write(i, raw)
                    journal.add(writer.checksum(i, raw))
                    waiting += len(raw)
                    if waiting > BYTES or time.monotonic() - last > SECONDS:
                        writer.flush()
                        journal.save()
                        last, waiting = time.monotonic(), 0
                    bar.update()
            finally:
                writer.flush()
                journal.save()
    except KeyboardInterrupt as stop:
        text = f"stopped after {len(journal.sums)} of {len(plan.names)} videos; the same command goes on"
        raise KeyboardInterrupt(text) from stop


def _remove(partial: Path) -> None:
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)
