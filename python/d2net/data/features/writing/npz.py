"""An .npz whose data are filled in later: stored, not compressed, as numpy.savez writes it."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

from d2net.data.features.npz import NpzFeatures
from d2net.data.features.store import FeatureStore
from d2net.data.features.timing import FILE
from d2net.data.features.writing.plan import OneFile, Plan, npy_header

_SMALL = 1 << 16  # entries of fewer bytes are read, and checked, in one go: their checksum is that of zeros at first
_CRC = 14  # where the checksum is in an entry's header


class NpzWriter(OneFile):
    def __init__(self, path: Path, plan: Plan):
        super().__init__(path, plan)
        self.entries: list[zipfile.ZipInfo] = []
        self.heads: list[bytes] = []
        self.offsets = []
        self.first = b""
        at = 0
        if plan.timing:
            text = json.dumps(plan.timing).encode()
            info = _entry(FILE, len(text), at)
            info.CRC = zlib.crc32(text)
            self.entries.append(info)
            self.first = info.FileHeader(zip64=True) + text
            at = len(self.first)
        for i, name in enumerate(plan.names):
            head = npy_header(plan, i)
            info = _entry(f"{name}.npy", len(head) + plan.bytes_of(i), at)
            if plan.bytes_of(i) < _SMALL:
                info.CRC = zlib.crc32(bytes(plan.bytes_of(i)), zlib.crc32(head))
            self.entries.append(info)
            self.heads.append(head)
            at += len(info.FileHeader(zip64=True)) + len(head)
            self.offsets.append(at)
            at += plan.bytes_of(i)
        self.end = at

    def lay_out(self) -> None:
        with open(self.path, "wb") as file:
            file.write(self.first)
            for info, head, data in zip(self._arrays(), self.heads, self.offsets, strict=True):
                file.seek(info.header_offset)
                file.write(info.FileHeader(zip64=True) + head)
                assert file.tell() == data
        self._write_directory()
        self.check()

    def finish(self, sums: list[int]) -> None:
        with open(self.path, "r+b") as file:
            for info, checksum in zip(self._arrays(), sums, strict=True):
                info.CRC = checksum
                file.seek(info.header_offset + _CRC)
                file.write(checksum.to_bytes(4, "little"))
        self._write_directory()
        self.check()

    def checksum(self, i: int, raw: bytes) -> int:
        """Of the whole entry."""
        return zlib.crc32(raw, zlib.crc32(self.heads[i]))

    def open(self) -> FeatureStore:
        return NpzFeatures(self.path)

    def _arrays(self) -> list[zipfile.ZipInfo]:
        return self.entries[len(self.entries) - len(self.heads) :]

    def _write_directory(self) -> None:
        with open(self.path, "r+b") as file:
            file.seek(self.end)
            # Of an archive that is begun where the data end, closing writes the directory there.
            with zipfile.ZipFile(file, "w") as archive:
                archive.filelist.extend(self.entries)
            file.truncate()


def _entry(name: str, size: int, offset: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.file_size = info.compress_size = size
    info.header_offset, info.CRC = offset, 0
    return info
