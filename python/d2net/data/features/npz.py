"""Features in one .npz keyed by video."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from d2net.data.features.headers import Headers, Shape
from d2net.data.features.index import Kept, file_state, load, save
from d2net.data.features.npy import header, npy_rows
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.timing import FILE, timing_of_file
from d2net.data.files import check_regular, reading

_HEAD = 30  # bytes of an entry's own header, before its name and extra field


class Place(NamedTuple):
    """Where an entry's header is in the archive, how it is compressed, its bytes so and plain, and their CRC-32."""

    offset: int
    method: int
    compressed: int
    size: int
    checksum: int


class NpzFeatures(FeatureStore):
    """One .npz keyed by video; a timing.json in it may state when a snippet is."""

    layout = "an .npz keyed by video"

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "an .npz", FeatureError):
            check_regular(path, FeatureError)
            self.state = file_state(path)
            if (kept := load(path, self.state)) is None:
                kept = self._indexed()
                save(path, self.state, kept)
            self.stated, self.places = kept.stated, kept.places
        super().__init__(str(path), Headers(kept.names, kept.code, kept.kinds))

    def _indexed(self) -> Kept:
        """Reads each array's header, and the timing where there is one."""
        stated: dict[str, float] = {}
        found: dict[str, Shape] = {}
        places: dict[str, Place] = {}
        with zipfile.ZipFile(self.path) as archive:
            if FILE in archive.namelist():
                stated = timing_of_file(f"{self.path}: {FILE}", json.loads(archive.read(FILE)))
            for info in archive.infolist():
                if not _is_array(info.filename):
                    continue
                name = info.filename.removesuffix(".npy")
                if name in found:
                    raise FeatureError(f"{self.path}: video {name!r} is in it twice")
                with (
                    reading(f"{self.path}: {info.filename}", "a NumPy array", FeatureError),
                    archive.open(info) as file,
                ):
                    found[name] = header(file, info.file_size)
                sizes = info.compress_size, info.file_size, info.CRC
                places[name] = Place(info.header_offset, info.compress_type, *sizes)
        headers = Headers.of(found)
        table = np.array([places[name] for name in headers.names], np.int64).reshape(-1, len(Place._fields))
        return Kept(headers.code, headers.kinds, headers.names, table, stated)

    def _place(self, name: str) -> Place:
        return Place(*self.places[self.headers.place[name]].tolist())

    def _read(self, name: str) -> np.ndarray:
        # Not np.load: it takes the entry `v.npy` for the key `v.npy` too, and lists the archive in each process.
        entry = f"{name}.npy"
        if file_state(self.path) == self.state:
            raw = _entry(self.path, entry, self._place(name))
        else:  # another archive than the one opened: what it holds now is compared by the caller
            with zipfile.ZipFile(self.path) as archive:
                raw = archive.read(entry)
        return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)

    def reads_rows(self, name: str) -> bool:
        return not self.turned and self._place(name).method == zipfile.ZIP_STORED

    def _read_rows(self, name: str, first: int, end: int) -> np.ndarray | None:
        """Without the archive's checksum, which is of the whole entry."""
        if not self.reads_rows(name) or file_state(self.path) != self.state:
            return None
        with open(self.path, "rb") as file:
            _to_data(file, f"{name}.npy", self._place(name))
            return npy_rows(file, self.stored_shape(name), first, end)


def _is_array(entry: str) -> bool:
    # macOS adds a shadow of each file to the archives that it makes.
    return entry.endswith(".npy") and not entry.rpartition("/")[2].startswith(".")


def array_entries(path: Path) -> list[str]:
    """Names of an archive's arrays."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if _is_array(name)]


def _to_data(file: IO[bytes], name: str, place: Place) -> None:
    """Leaves the file where the entry's data begin."""
    file.seek(place.offset)
    head = file.read(_HEAD)
    if head[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"no entry {name!r} where the archive states it")
    file.seek(sum(struct.unpack("<HH", head[26:30])), os.SEEK_CUR)


def _entry(path: Path, name: str, place: Place) -> bytes:
    """The bytes of an archive's entry, of the size and checksum that the archive states.

    Raises:
        ValueError, BadZipFile: they are not.
    """
    with open(path, "rb") as file:
        _to_data(file, name, place)
        if place.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        raw = file.read(place.compressed)
    if place.method == zipfile.ZIP_DEFLATED:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, place.size + 1)
    if len(raw) != place.size:
        raise ValueError(f"{name!r} has {len(raw)} bytes of {place.size}")
    if zlib.crc32(raw) != place.checksum:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")
    return raw
