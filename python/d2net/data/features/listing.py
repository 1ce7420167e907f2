"""What a folder of arrays holds, listed once, and the files of its videos, in columns: a million of either."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.features.files import KINDS, TEXT
from d2net.data.features.shapes import FeatureError

_SAMPLE = 64  # files of a folder whose size and time are compared


class Listing(NamedTuple):
    """A folder's files, without hidden ones, such as macOS leaves beside copies (`._v.npy`).

    time: of the folder's last change before it was listed, ns. stems: (n,) names without suffixes. suffix: (n,), the
    place in `suffixes` of each. numbers: (n,) of the files, by which one that replaces another is told.
    """

    folder: Path
    time: int
    stems: list[str]
    suffix: np.ndarray
    suffixes: list[str]
    numbers: np.ndarray

    def kinds(self) -> Counter[str]:
        """How many files there are by suffix, in lower case."""
        found: Counter[str] = Counter()
        for kind, count in zip(self.suffixes, np.bincount(self.suffix, minlength=len(self.suffixes)), strict=True):
            found[kind.lower()] += int(count)
        return found

    def of_kinds(self, kinds: Iterable[str]) -> Listing:
        """The files of these suffixes, by name."""
        wanted = {i for i, kind in enumerate(self.suffixes) if kind.lower() in set(kinds)}
        rows: Iterable[int] = range(len(self.stems))
        if len(wanted) < len(self.suffixes):
            rows = np.flatnonzero(np.isin(self.suffix, list(wanted))).tolist()
        order = sorted(rows, key=self.stems.__getitem__)
        stems = [self.stems[i] for i in order]
        return self._replace(stems=stems, suffix=self.suffix[order], numbers=self.numbers[order])

    def arrays(self) -> Listing:
        """The files that hold arrays, one for each stem; text counts only where there is nothing else: beside arrays it
        is a list or a table.

        Raises:
            FeatureError: two files of one stem.
        """
        found = self.of_kinds(KINDS if self.kinds().keys() & set(KINDS) else TEXT)
        for i in range(1, len(found.stems)):
            if found.stems[i] == found.stems[i - 1]:
                a, b = sorted((found.file(i - 1), found.file(i)))
                raise FeatureError(f"{self.folder}: video {found.stems[i]!r} is there as {a} and as {b}")
        return found

    def file(self, i: int) -> str:
        return self.stems[i] + self.suffixes[self.suffix[i]]


def listed(folder: Path) -> Listing:
    """An empty listing of what is no folder."""
    stems: list[str] = []
    suffix, numbers = array("i"), array("Q")
    suffixes: dict[str, int] = {}
    if not folder.is_dir():
        return Listing(folder, 0, stems, np.zeros(0, np.int32), [], np.zeros(0, np.uint64))
    time = os.stat(folder).st_mtime_ns
    with os.scandir(folder) as entries:
        for entry in entries:
            if (name := entry.name)[0] != ".":
                stem, dot, kind = name.rpartition(".")
                stems.append(stem if dot else name)
                suffix.append(suffixes.setdefault(dot + kind if dot else "", len(suffixes)))
                # Elsewhere than on POSIX the number costs a call for each.
                numbers.append(entry.inode() if os.name == "posix" else 0)
    return Listing(folder, time, stems, np.array(suffix), list(suffixes), np.array(numbers))


class Part(NamedTuple):
    """A file of a video: `<video><tail>` in a folder, or `tail` where it is not called after the video."""

    folder: Path
    tail: str
    own: bool = True

    def of(self, video: str) -> str:
        return f"{self.folder}{os.sep}{video if self.own else ''}{self.tail}"


class VideoFiles:
    """The files of n videos, one or two each.

    names: of the videos, sorted; pattern: (n,) int32, the place in `patterns` of each; patterns: parts.
    """

    def __init__(self, names: list[str], pattern: np.ndarray, patterns: Sequence[tuple[Part, ...]]):
        self.names, self.pattern, self.patterns = names, pattern, list(patterns)

    @classmethod
    def of_each(cls, videos: Iterable[tuple[str, tuple[Part, ...]]]) -> VideoFiles:
        """Of (name, parts) of videos by name."""
        names, codes = [], array("i")
        patterns: dict[tuple[Part, ...], int] = {}
        for name, parts in videos:
            names.append(name)
            codes.append(patterns.setdefault(parts, len(patterns)))
        return cls(names, np.array(codes), list(patterns))

    def of(self, i: int) -> tuple[str, ...]:
        return tuple(part.of(self.names[i]) for part in self.patterns[self.pattern[i]])

    def counts(self) -> np.ndarray:
        """(n,) files of each video."""
        return np.array([len(parts) for parts in self.patterns], np.int64)[self.pattern]

    def kinds(self) -> Counter[str]:
        """How many files there are by suffix."""
        found: Counter[str] = Counter()
        for parts, count in zip(self.patterns, np.bincount(self.pattern, minlength=len(self.patterns)), strict=True):
            for part in parts:
                found["." + part.tail.rpartition(".")[2]] += int(count)
        return found

    def __iter__(self) -> Iterator[str]:
        """Every file, by video."""
        for name, code in zip(self.names, self.pattern.tolist(), strict=True):
            for part in self.patterns[code]:
                yield part.of(name)


class Paths(Sequence[Path]):
    """Every file, by video, of which none is kept."""

    def __init__(self, files: VideoFiles):
        self.files = files
        self.ends = np.cumsum(files.counts())

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"file {i} of {len(self)}")
        i %= len(self)
        video = int(np.searchsorted(self.ends, i, "right"))
        own = self.files.of(video)
        return Path(own[i - int(self.ends[video]) + len(own)])

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.files)


def folder_state(files: VideoFiles, listings: Sequence[Listing]) -> list[Any]:
    """[[times of change of the folders, ns], digest of their files' names and numbers, sizes and times of some].

    No file but those few is asked for its size and time. What rewrites others in place is noticed when they are read.
    """
    digest = hashlib.blake2b(digest_size=16)
    parts = [[(part.folder.name, part.tail, part.own) for part in parts] for parts in files.patterns]
    for names in (files.names, *(x.stems for x in listings)):
        digest.update(f"{len(names)}\0".encode() + "\0".join(names).encode("utf-8", "surrogatepass"))
    for column in (files.pattern, *(c for x in listings for c in (x.suffix, x.numbers))):
        digest.update(column.tobytes())
    digest.update(repr((parts, [(x.folder.name, x.suffixes) for x in listings])).encode("utf-8", "surrogatepass"))
    paths = Paths(files)
    some = dict.fromkeys(np.linspace(0, len(paths) - 1, min(_SAMPLE, len(paths))).astype(int).tolist())
    sample = [[stat.st_size, stat.st_mtime_ns] for stat in (os.stat(paths[i]) for i in some)]
    return [[x.time for x in listings], digest.hexdigest(), sample]
