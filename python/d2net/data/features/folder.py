"""Features in a folder of arrays, a file a video or a file a stream."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from d2net.data.features import index
from d2net.data.features.files import array_header, read_array, read_rows, reads_rows
from d2net.data.features.headers import Column, Headers, Shape
from d2net.data.features.listing import Listing, Part, Paths, VideoFiles, folder_state, listed
from d2net.data.features.npy import HeaderReader
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.timing import FILE, timing_of_file
from d2net.data.files import read_json, reading, some

MOVE = "unlike the {} files beside it; if it is no video's features, move it elsewhere"
_STREAMS = ("rgb", "flow")


class FolderFeatures(FeatureStore):
    """Files of one or two streams for each video, joined along the width.

    Args:
        listings: of the folders that the files are in.
    """

    def __init__(self, path: Path, files: VideoFiles, listings: Sequence[Listing]):
        self.files = files
        count = int(files.counts().sum())
        state = folder_state(files, listings) if count >= index.LEAST else None
        kept = index.load(path, state) if state else None
        made = kept is None or len(kept.code) != count
        code, kinds = _read_headers(files) if kept is None or made else (kept.code, kept.kinds)
        headers, self.widths = _joined(path, files, code, kinds)
        try:
            super().__init__(str(path), headers)
        except FeatureError as error:
            raise FeatureError(f"{error}{_stray(path, files, headers)}") from error
        if state and made:
            index.save(path, state, index.Kept(code, kinds, [], np.zeros((0, 0), np.int64), {}))
        if os.path.lexists(path / FILE):
            self.stated = timing_of_file(path / FILE, read_json(path / FILE))
        pairs = count > len(files.names)
        self.layout = "a folder, " + ("a file a video" if not pairs else "a file a stream, joined along the width")

    def sources(self) -> Sequence[Path]:
        return Paths(self.files)

    def _files(self, name: str) -> list[Path]:
        return list(map(Path, self.files.of(self.headers.place[name])))

    def _read(self, name: str) -> np.ndarray:
        files = self._files(name)
        parts = [read_array(p) for p in files]
        if len(parts) == 1:
            return parts[0]
        for file, part, width in zip(files, parts, self.widths[name], strict=True):
            if part.shape != (opened := (self.held[name][0], width)):
                raise FeatureError(
                    f"{file} changed while it was in use: it was {opened}, and is now {part.dtype} {part.shape}; put "
                    "it back, or start again"
                )
        return np.concatenate(parts, axis=1)

    def reads_rows(self, name: str) -> bool:
        parts = self.files.patterns[self.files.pattern[self.headers.place[name]]]
        return not self.turned and all(reads_rows(part.tail) for part in parts)

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        files = self._files(name)
        if len(files) == 1:
            return read_rows(files[0], self.stored_shape(name), first, end)
        found = [
            read_rows(p, (self.lengths[name], width), first, end)
            for p, width in zip(files, self.widths[name], strict=True)
        ]
        return None if any(x is None for x in found) else np.concatenate(found, axis=1)  # type: ignore[arg-type]


def _read_headers(files: VideoFiles) -> tuple[np.ndarray, list[Shape]]:
    """Which of the kinds each file is, in the order of the files; reads all of their headers."""
    codes, kinds, reader = array("i"), dict[Shape, int](), HeaderReader()
    for file in files:
        header = reader.read(file) if file.endswith(".npy") else None
        codes.append(kinds.setdefault(header or _header(Path(file), files), len(kinds)))
    return np.array(codes), list(kinds)


def _header(path: Path, files: VideoFiles) -> Shape:
    try:
        return array_header(path)
    except FeatureError as error:
        kinds = files.kinds()
        like, every = kinds[path.suffix], kinds.total()
        # A file by itself among many of another kind is no video, perhaps.
        hint = f"; {MOVE.format(every - like)}" if 4 * like < every else ""
        raise FeatureError(f"{error}{hint}") from error


def _joined(
    path: Path, files: VideoFiles, code: np.ndarray, kinds: list[Shape]
) -> tuple[Headers, Column[tuple[int, ...]]]:
    """Headers of the videos, and the widths of their streams; code: of each file.

    Raises:
        FeatureError: streams of a video that differ in rows.
    """
    counts = files.counts()
    if (counts == 1).all():
        headers = Headers(files.names, code, kinds)
        return headers, Column(headers, [()] * len(kinds))
    begins = np.cumsum(counts) - counts
    second = np.where(counts == 2, code[np.minimum(begins + 1, len(code) - 1)], -1)
    pairs, first, of_pair = np.unique(np.stack([code[begins], second]), axis=1, return_index=True, return_inverse=True)
    joint, widths = dict[int, Shape](), dict[int, tuple[int, ...]]()
    for pair in np.argsort(first).tolist():
        parts = [kinds[k] for k in pairs[:, pair].tolist() if k >= 0]
        if len(parts) > 1:
            _check_streams(path, files, int(first[pair]), [shape for shape, _ in parts])
        joint[pair] = _along_width(parts)
        widths[pair] = tuple(shape[1] for shape, _ in parts) if len(parts) > 1 else ()
    headers = Headers(files.names, of_pair.reshape(-1).astype(np.int32), [joint[k] for k in range(len(joint))])
    return headers, Column(headers, [widths[k] for k in range(len(widths))])


def _along_width(parts: Sequence[Shape]) -> Shape:
    if len(parts) == 1:
        return parts[0]
    dtypes = [dtype for _, dtype in parts]
    kind = next((dtype for dtype in dtypes if dtype.kind != "f"), None) or np.result_type(*dtypes)
    return (parts[0][0][0], sum(shape[1] for shape, _ in parts)), kind


def _check_streams(path: Path, files: VideoFiles, video: int, shapes: Sequence[tuple[int, ...]]) -> None:
    own = list(zip(map(Path, files.of(video)), shapes, strict=True))
    if odd := next((x for x in own if len(x[1]) != 2), None):
        raise FeatureError(f"{odd[0]}: a stream must be (snippets, width), got {odd[1]}")
    if len({shape[0] for shape in shapes}) > 1:
        rows = " and ".join(f"{p.relative_to(path)} has {shape[0]}" for p, shape in own)
        raise FeatureError(f"{path}: the streams of {files.names[video]!r} differ in rows: {rows}")


def _stray(path: Path, files: VideoFiles, headers: Headers) -> str:
    """That a few files are unlike all the others, where they are."""
    alike = [(len(shape), shape[-1] if shape else 0, dtype.kind) for shape, dtype in headers.kinds]
    found: Counter[tuple[int, int, str]] = Counter()
    for kind, count in zip(alike, headers.counts(), strict=True):
        found[kind] += count
    (most, count), *_ = found.most_common()
    rows = np.flatnonzero(np.isin(headers.code, [k for k, kind in enumerate(alike) if kind != most])).tolist()
    if not rows or 4 * len(rows) >= len(headers.names):
        return ""
    odd = [Path(files.of(i)[0]).relative_to(path).as_posix() for i in rows]
    return f"; {some(odd)}: {MOVE.format(count)}"


def open_folder(path: Path, pairs: bool | None = None, listing: Listing | None = None) -> FolderFeatures:
    """Opens `<video>.npy`, `<video>_rgb.npy` with `<video>_flow.npy`, `{rgb,flow}/` or `{train,test}/{rgb,flow}/`.

    The last may lie in a folder `features`, beside which BaS-Net, CoLA and ASM-Loc have their annotations.

    Args:
        pairs: whether `_rgb` and `_flow` are streams of a video; True where there must be such, None where there may.
        listing: of the folder, where it is known.

    Raises:
        FeatureError: a stream is missing, a video is there twice, or two of these layouts are mixed.
    """
    with reading(path, "a folder of features", FeatureError):
        places, listing = _places(path), listing or listed(path)
        flat = listing.arrays()
        if pairs is False:
            _check_any(listing, flat)
            return FolderFeatures(path, _each(flat), [flat])
        if not places and not flat.stems and (path / "features").is_dir():
            path = path / "features"
            places, listing = _places(path), listed(path)
            flat = listing.arrays()
        if not places:
            _check_any(listing, flat)
            files = _flat(path, flat)
            if pairs and (alone := [files.names[i] for i in np.flatnonzero(files.counts() == 1).tolist()]):
                raise FeatureError(f"{path}: layout streams, but {some(alone)} are no pairs of _rgb and _flow")
            return FolderFeatures(path, files, [flat])
        if flat.stems:
            raise FeatureError(
                f"{path} holds {len(flat.stems)} arrays ({some(flat.stems)}) beside the folders; keep one layout"
            )
        folders = {(place, kind): listed(place / kind).arrays() for place in places for kind in _STREAMS}
        return FolderFeatures(path, _in_folders(path, folders), [x for x in folders.values() if x.stems])


def _places(path: Path) -> list[Path]:
    return [p for p in (path, path / "train", path / "test") if (p / "rgb").is_dir() or (p / "flow").is_dir()]


def _check_any(listing: Listing, arrays: Listing) -> None:
    """Raises FeatureError, with what there is, where the folder has no arrays."""
    if arrays.stems:
        return
    held = ", ".join(f"{n} {k or 'without extension or folders'}" for k, n in listing.kinds().most_common(3))
    what = f"it holds {held}; save each video's as .npy, .npz, .pt, .safetensors or .csv" if held else "it is empty"
    raise FeatureError(f"{listing.folder}: no feature arrays in it: {what}")


def _each(arrays: Listing) -> VideoFiles:
    """Every file a video."""
    return VideoFiles(arrays.stems, arrays.suffix, [(Part(arrays.folder, suffix),) for suffix in arrays.suffixes])


def _flat(path: Path, arrays: Listing) -> VideoFiles:
    """Pairs of streams as one video each; what is no pair is a video by itself."""
    tails = tuple(f"_{kind}" for kind in _STREAMS)
    if not any(stem.endswith(tails) for stem in arrays.stems):
        return _each(arrays)
    suffixes = [arrays.suffixes[k] for k in arrays.suffix.tolist()]
    files: dict[str, tuple[Part, ...]] = {}
    streams: dict[str, dict[str, str]] = {}
    for stem, suffix in zip(arrays.stems, suffixes, strict=True):
        tail = next((tail for tail in tails if stem.endswith(tail)), None)
        if tail is None:
            files[stem] = (Part(path, suffix),)
        else:
            streams.setdefault(stem.removesuffix(tail), {})[tail] = suffix
    for video, held in sorted(streams.items()):
        if missing := next((tail for tail in tails if tail not in held), None):
            raise FeatureError(f"{path}: video {video!r} lacks its stream {video}{missing}.npy")
        if video in files:
            alone = f"{video}{files[video][0].tail}"
            raise FeatureError(f"{path}: video {video!r} is there as {alone} and as {video}_rgb; keep one")
        files[video] = tuple(Part(path, tail + held[tail]) for tail in tails)
    return VideoFiles.of_each(sorted(files.items()))


def _in_folders(path: Path, folders: dict[tuple[Path, str], Listing]) -> VideoFiles:
    """Videos whose streams are in folders of their own."""
    every = sorted(
        (stem, place, kind, listing.suffixes[k])
        for (place, kind), listing in folders.items()
        for stem, k in zip(listing.stems, listing.suffix.tolist(), strict=True)
    )

    def videos() -> Iterator[tuple[str, tuple[Part, ...]]]:
        for video, files in groupby(every, key=lambda entry: entry[0]):
            held = {(place, kind): suffix for _, place, kind, suffix in files}
            places = list(dict.fromkeys(place for place, _ in folders if any((place, k) in held for k in _STREAMS)))
            if len(places) > 1:
                first, other = places[:2]
                raise FeatureError(f"{path}: video {video!r} is in {first / 'rgb'} and in {other / 'rgb'}")
            if missing := next((kind for kind in _STREAMS if (places[0], kind) not in held), None):
                wanted = (places[0] / missing / f"{video}.npy").relative_to(path)
                raise FeatureError(f"{path}: video {video!r} lacks its stream {wanted}")
            yield video, tuple(Part(places[0] / kind, held[places[0], kind]) for kind in _STREAMS)

    return VideoFiles.of_each(videos())
