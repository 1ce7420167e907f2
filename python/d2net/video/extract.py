"""Videos to a folder of features: decoded by several threads, by the backbone in batches across videos."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.features.extracted import Extracted
from d2net.data.files import DataError, check_regular, reading, shown
from d2net.terminal import Bar
from d2net.training.lock import FolderLock
from d2net.video import VideoError, needed
from d2net.video.backbones import Backbone
from d2net.video.decode import VideoReader
from d2net.video.decoders import open_video
from d2net.video.flow import Flow, one_thread
from d2net.video.snippets import Snippet, snippets
from d2net.video.writing import Folder, RowWriter

TRUNCATED = "truncated"  # how the log's note begins on a video that only partial=True takes


@dataclass
class Extraction:
    """What became of each video: extracted now, kept from before, or why not; by name, failures by path."""

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class _Video(NamedTuple):
    path: Path
    name: str


@dataclass
class _Waiting:
    """A snippet of one video that the next batch takes, and how many of its snippets it stands for."""

    index: int
    snippet: Snippet
    times: int = 1


class _Ended(NamedTuple):
    """A video's last message."""

    entry: Extracted | None = None  # without snippets: they were kept from before
    error: str | None = None
    unknown: BaseException | None = None


def video_names(paths: Sequence[Path]) -> tuple[list[_Video], dict[str, str]]:
    """Files by the name of their features, without folder and extension; and those whose name is taken."""
    found: dict[str, Path] = {}
    failed = {}
    for path in paths:
        name = path.stem if path.stem.strip() else path.name
        if name not in found:
            found[name] = path
        elif path.resolve() != found[name].resolve():
            failed[str(path)] = f"{path}: its features would be called {name!r}, as those of {found[name]}; rename it"
    return [_Video(path, name) for name, path in found.items()], failed


def extract(
    videos: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    backbone: Backbone,
    *,
    workers: int | None = None,
    partial: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Extraction:
    """Writes `out`/<name>.npy, (snippets, d) float32, of each video, and a log of timing, durations and sources.

    What an interruption left is gone on with: videos whose features are there, of the same bytes, are kept. A video
    that cannot be used does not stop the others. The same videos and settings give the same bytes.

    Args:
        videos: files, and folders of them.
        backbone: as `make_backbone` gives it.
        out: a new folder, or one of the same backbone and settings.
        workers: threads that decode; as many as there are processors by default.
        partial: takes what decodes of truncated videos; a later run without it reads them again.
        overwrite: starts again whatever the folder's features are.
        progress: shows a bar on standard error.

    Returns:
        names of the videos done, kept from an earlier run and failed, the last with reasons.

    Raises:
        DataError: `out` holds something else.
        ImportError: PyAV or OpenCV is missing.
    """
    needed("av", "av")
    out = Path(out)
    todo, failed = video_names([Path(v) for v in videos])
    result = Extraction(failed=failed)
    Folder(out, backbone.identity(), overwrite)  # nothing is written into what is refused
    with FolderLock(out, "extract"), one_thread():
        folder = Folder(out, backbone.identity(), overwrite)
        folder.start()
        run = _Run(folder, backbone, todo, workers or _processors(), partial, result)
        try:
            run.run(progress)
        except KeyboardInterrupt:
            there = len(result.done) + len(result.kept)
            raise KeyboardInterrupt(f"stopped with {there} of {len(todo)} videos; run it again to go on") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataError(
                f"cannot write to {out}: {reason}; what is extracted stays, run it again to go on"
            ) from error
        finally:
            run.stop()
            folder.finish()
    return result


def _processors() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


class _Run:
    """Readers put rows or snippets into one bounded queue; one consumer makes batches and writes."""

    def __init__(
        self, folder: Folder, backbone: Backbone, todo: list[_Video], workers: int, partial: bool, result: Extraction
    ):
        self.folder, self.backbone, self.todo, self.partial, self.result = folder, backbone, todo, partial, result
        self.workers = max(1, workers)
        self.flow = Flow(backbone.spec.flow) if backbone.spec.flow else None
        self.messages: queue.Queue[tuple[int, Any]] = queue.Queue(2 * backbone.batch + 2 * self.workers)
        self.next = iter(range(len(todo)))
        self.taking = threading.Lock()
        self.stopping = threading.Event()
        # Fewer videos than threads: the others compute flow some frames ahead.
        self.pool = ThreadPoolExecutor(self.workers) if self.flow and len(todo) < self.workers else None
        self.threads = [
            threading.Thread(target=self._read_all, daemon=True) for _ in range(min(self.workers, len(todo)))
        ]
        self.seen = [0.0] * len(todo)  # share of each video, for the bar
        self.writers: dict[int, RowWriter] = {}
        self.ended: dict[int, Extracted] = {}
        self.waiting: dict[tuple[int, ...], list[_Waiting]] = {}

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            if thread.is_alive():
                thread.join()
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        for writer in self.writers.values():
            writer.drop()

    # Readers

    def _read_all(self) -> None:
        while not self.stopping.is_set():
            with self.taking:
                index = next(self.next, None)
            if index is None:
                return
            try:
                ended = self._read(index)
            except DataError as error:
                ended = _Ended(error=str(error))
            except Exception as error:
                ended = _Ended(unknown=error)
            self._put(index, ended)

    def _put(self, index: int, message: Any) -> None:
        while not self.stopping.is_set():
            try:
                return self.messages.put((index, message), timeout=0.2)
            except queue.Full:
                continue

    def _read(self, index: int) -> _Ended:
        path, name = self.todo[index]
        with reading(path, "a video", VideoError):
            check_regular(path, VideoError)
            sha256 = file_digest(path)
        before = self.folder.log.videos.get(name)
        if before is not None and before.sha256 == sha256 and (self.partial or not before.note.startswith(TRUNCATED)):
            return _Ended(before)
        spec = self.backbone.spec
        count = 0
        row: np.ndarray | Snippet | None = None
        with open_video(path, spec.fps, spec.size, partial=self.partial, decoder=spec.decoder) as reader:
            made = snippets(
                self._watched(reader, index), spec.snippet_frames, spec.stride, self.flow, spec.size, self.pool
            )
            for snippet in made:
                if self.stopping.is_set():
                    return _Ended()
                if not self.backbone.per_snippet:
                    row = snippet
                elif row is None or not snippet.repeated:
                    row = self._row(snippet)
                self._put(index, row)
                count += 1
            notes = [f"{TRUNCATED}: {reader.missing:.2f} s are missing"] if reader.missing else []
            notes += [f"{reader.undecodable} packets could not be decoded"] if reader.undecodable else []
            file = self.folder.file_name(name)
            return _Ended(Extracted(name, file, count, round(reader.duration, 6), path.name, sha256, "; ".join(notes)))

    def _watched(self, reader: VideoReader, index: int) -> Iterator[np.ndarray]:
        whole = max(reader.expected * float(reader.fps), 1.0)
        for number, frame in enumerate(reader, 1):
            yield frame
            self.seen[index] = min(number / whole, 1.0)

    def _row(self, snippet: Snippet) -> np.ndarray:
        flow = None if snippet.flow is None else snippet.flow[None]
        return self.backbone(snippet.frames[None], flow)[0]

    # The consumer

    def run(self, progress: bool) -> None:
        sizes = [_size(path) for path, _ in self.todo]
        bar = Bar("extract", sum(sizes), unit="B", show=progress)
        for thread in self.threads:
            thread.start()
        left = len(self.todo)
        with bar:
            while left:
                try:
                    index, message = self.messages.get(timeout=0.5)
                except queue.Empty:
                    index, message = -1, None
                if isinstance(message, _Ended):
                    left -= 1
                    self.seen[index] = 1.0
                    self._end(index, message)
                elif isinstance(message, Snippet):
                    self._wait(index, message)
                elif message is not None:
                    self._write(index, message)
                bar.note = f"{len(self.todo) - left}/{len(self.todo)} videos"
                bar.set(sum(share * size for share, size in zip(self.seen, sizes, strict=True)))
            for shape in list(self.waiting):
                self._run_batch(shape)

    def _wait(self, index: int, snippet: Snippet) -> None:
        group = self.waiting.setdefault(snippet.frames.shape, [])
        if snippet.repeated:
            before = next((w for w in reversed(group) if w.index == index), None)
            if before is not None:
                before.times += 1
            elif index in self.writers:
                self._write(index, self.writers[index].last)
            return
        group.append(_Waiting(index, snippet))
        if len(group) == self.backbone.batch:
            self._run_batch(snippet.frames.shape)
        elif sum(map(len, self.waiting.values())) > 2 * self.backbone.batch:  # many shapes: none may wait for ever
            self._run_batch(max(self.waiting, key=lambda shape: len(self.waiting[shape])))

    def _run_batch(self, shape: tuple[int, ...]) -> None:
        """One batch, filled up with zeros: how a row is rounded must not depend on how many there are."""
        group = self.waiting.pop(shape)
        lacking = self.backbone.batch - len(group)
        snippets = [w.snippet for w in group]
        frames = np.stack([s.frames for s in snippets] + [np.zeros_like(snippets[0].frames)] * lacking)
        flow = None
        if (first := snippets[0].flow) is not None:
            flow = np.stack([s.flow for s in snippets if s.flow is not None] + [np.zeros_like(first)] * lacking)
        rows = self.backbone(frames, flow)
        for waiting, row in zip(group, rows, strict=False):
            for _ in range(waiting.times):
                self._write(waiting.index, row)

    def _write(self, index: int, row: np.ndarray) -> None:
        if str(self.todo[index].path) in self.result.failed:
            return
        if not np.isfinite(row).all() or row.shape != (self.backbone.width,):
            what = f"shape {row.shape}, not ({self.backbone.width},)" if np.isfinite(row).all() else "NaN or infinity"
            self._fail(index, f"{self.todo[index].path}: backbone {self.backbone.name} gave {what}")
            return
        if index not in self.writers:
            self.writers[index] = RowWriter(self.folder.path, index, self.backbone.width)
        self.writers[index].add(row)
        self._complete(index)

    def _end(self, index: int, message: _Ended) -> None:
        path, name = self.todo[index]
        if message.unknown is not None:
            if isinstance(message.unknown, (ImportError, KeyboardInterrupt)):
                raise message.unknown
            kind = type(message.unknown).__name__
            self._fail(index, f"{path}: {kind}: {shown(str(message.unknown))}; please report it")
        elif message.error is not None:
            self._fail(index, message.error)
        elif message.entry is not None and message.entry is self.folder.log.videos.get(name):
            self.result.kept.append(name)
        elif message.entry is not None and str(path) not in self.result.failed:
            self.ended[index] = message.entry
            self._complete(index)

    def _fail(self, index: int, text: str) -> None:
        self.result.failed[str(self.todo[index].path)] = text
        self.ended.pop(index, None)
        if (writer := self.writers.pop(index, None)) is not None:
            writer.drop()

    def _complete(self, index: int) -> None:
        """Puts a video's features in place once all of its rows are there."""
        entry, writer = self.ended.get(index), self.writers.get(index)
        if entry is None or writer is None or writer.rows < entry.snippets:
            return
        writer.finish(entry.file)
        self.folder.add(entry)
        self.result.done.append(entry.video)
        del self.ended[index], self.writers[index]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
