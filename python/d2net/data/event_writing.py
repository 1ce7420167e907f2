"""Writing lists of events: tables, and folders of label tracks."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from d2net.data.events import COLUMNS, VIDEOS, Event, read_events, read_tracks
from d2net.data.files import DataError, check_destination, check_file_names, replacing

_OURS = [COLUMNS[kind][0] for kind in ("video", "start", "end", "label")]
_DCASE = [COLUMNS[kind][1] for kind in ("video", "start", "end", "label")]


class Row(NamedTuple):
    """As an Event; others: the video's, the same in all of its rows."""

    video: str
    start: float | None
    end: float | None
    label: str | None
    score: float | None
    others: dict[str, str]


def write_events(
    path: Path, rows: Iterable[Row], extra: Sequence[str], check: Callable[[Path], None], scored: bool = False
) -> None:
    """.csv, .tsv (DCASE's names of columns), or a folder of label tracks; check(path) before it takes its name.

    Args:
        extra: the columns of `others`; scored: whether there is a score.

    Raises:
        DataError: it cannot be written, or another kind of file is asked for.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            with replacing(path) as temporary:
                with open(temporary, "w", encoding="utf-8", newline="") as file:
                    _write_table(file, path.suffix.lower() == ".tsv", rows, extra, scored)
                check(temporary)
        elif path.suffix:
            raise DataError(f"{path}: lists of events are written as .json, .csv, .tsv, or a folder of label tracks")
        else:
            _write_tracks(path, list(rows), extra, check, scored)
    except UnicodeEncodeError as error:
        what = error.object[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"{path}: {what!r} is not Unicode; rename it, or write .json") from error


def written_back(path: Path, suffix: str) -> Iterator[Event]:
    """What `write_events` wrote, read again."""
    return read_events(path) if suffix else read_tracks(path)


def _write_table(file: IO[str], dcase: bool, rows: Iterable[Row], extra: Sequence[str], scored: bool) -> None:
    table = csv.writer(file, delimiter="\t" if dcase else ",", lineterminator="\n")
    names = [*(_DCASE if dcase else _OURS), *["score"] * scored]
    if twice := [name for name in extra if name in {n for kind in COLUMNS.values() for n in kind}]:
        raise DataError(f"a field of a video cannot be called {twice[0]!r} in a table; rename it, or write .json")
    table.writerow([*names, *extra])
    for row in rows:
        values = [row.video, row.start, row.end, row.label, *[row.score] * scored]
        cells = ["" if v is None else v if isinstance(v, str) else repr(v) for v in values]
        table.writerow([*cells, *(row.others.get(name, "") for name in extra)])


def _write_tracks(
    path: Path, rows: list[Row], extra: Sequence[str], check: Callable[[Path], None], scored: bool
) -> None:
    if path.exists() and (not path.is_dir() or os.listdir(path)):
        raise DataError(f"{path} is there; label tracks are written to a new folder")
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row.video, []).append(row)
    check_file_names(videos, ".txt", path)
    check_destination(path.parent / f"{path.name}.txt")
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp"))
    try:
        os.chmod(temporary, 0o777 & ~_umask())
        for name, own in videos.items():
            text = "".join(_line(row) for row in own if row.start is not None)
            (temporary / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
        if not scored:
            whole = [r for own in videos.values() for r in [x for x in own if x.start is None] or [_whole(own[0])]]
            with open(temporary / VIDEOS, "w", encoding="utf-8", newline="") as file:
                _write_table(file, False, whole, extra, False)
        check(temporary)
        if path.is_dir():
            path.rmdir()
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _whole(row: Row) -> Row:
    return Row(row.video, None, None, None, None, row.others)


def _line(row: Row) -> str:
    label = row.label if row.score is None else f"{row.label} [{row.score!r}]"
    return f"{row.start!r}\t{row.end!r}\t{label}\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
