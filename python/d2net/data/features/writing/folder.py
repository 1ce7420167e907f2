"""A folder of <video>.npy, and timing.json."""

from __future__ import annotations

import json
import os
from pathlib import Path

from d2net.data.features.folder import open_folder
from d2net.data.features.store import FeatureError, FeatureStore
from d2net.data.features.timing import FILE
from d2net.data.features.writing.plan import Plan, Writer, npy_header
from d2net.data.files import check_file_names, write_text


class FolderWriter(Writer):
    folder = True

    def __init__(self, path: Path, plan: Plan):
        super().__init__(path, plan)
        self.waiting: list[Path] = []

    def lay_out(self) -> None:
        check_file_names(self.plan.names, ".npy", self.path.parent)
        if paired := [n for n in self.plan.names if n.endswith(("_rgb", "_flow"))]:
            raise FeatureError(
                f"a folder cannot hold a video called {paired[0]!r}: it would be read as a stream; rename it, or write "
                "another format"
            )
        self.path.mkdir()
        if self.plan.timing:
            write_text(self.path / FILE, json.dumps(self.plan.timing))

    def holds(self, done: int) -> bool:
        try:
            sizes = [os.stat(self._place(i)).st_size for i in range(done)]
        except OSError:
            return False
        whole = [len(npy_header(self.plan, i)) + self.plan.bytes_of(i) for i in range(done)]
        return self.path.is_dir() and sizes == whole

    def _place(self, i: int) -> Path:
        return self.path / f"{self.plan.names[i]}.npy"

    def write(self, i: int, raw: bytes) -> None:
        path = self._place(i)
        with open(path, "wb") as file:
            file.write(npy_header(self.plan, i))
            file.write(raw)
        self.waiting.append(path)

    def flush(self) -> None:
        for path in self.waiting:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        self.waiting.clear()

    def finish(self, sums: list[int]) -> None:
        self.check()

    def open(self) -> FeatureStore:
        return open_folder(self.path)
