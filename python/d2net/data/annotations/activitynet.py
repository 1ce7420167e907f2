"""ActivityNet's annotation JSON, and ActionFormer's variant."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from sys import intern
from typing import Any

from d2net.data.annotations.label_ids import classes_by_id
from d2net.data.annotations.model import ROUNDING, Annotations, AnnotationWarning, Segment, Video
from d2net.data.files import DataError, shown, some
from d2net.ranges import LONGEST, are_times, seconds, usable

_NUMBERS = (float, int)


def from_tree(path: str | os.PathLike, tree: Any, classes: Sequence[str] | None = None) -> Annotations:
    """Annotations out of ActivityNet's tree: `database` → subset, duration_second, annotations.

    Raises:
        DataError: as `load_annotations`.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("database"), dict):
        raise DataError(f"{path}: expected an object with `database`, as ActivityNet's annotation files have")
    given = classes if classes is not None else tree.get("classes")
    names = isinstance(given, (list, tuple)) and all(isinstance(c, str) for c in given)
    if given is not None and not names:
        raise DataError(f"{path}: classes must be a list of names, got {shown(given)}")
    videos = {name: _video(path, name, entry) for name, entry in tree["database"].items()}
    found = sorted({c for v in videos.values() for c in v.labels})
    ids: tuple[int, ...] = ()
    if given is None:
        numbered = classes_by_id(tree["database"])
        if numbered.classes is not None and set(found) <= set(numbered.classes):
            given, ids = numbered.classes, numbered.ids
        if numbered.note:
            warnings.warn(f"{path}: {numbered.note}", AnnotationWarning, stacklevel=3)
    known = tuple(given) if given is not None else tuple(found)
    if any(not c.strip() for c in known):
        raise DataError(f"{path}: a class without a name is listed in {shown(list(known))}")
    if len(set(known)) != len(known):
        raise DataError(f"{path}: a class is listed twice in {shown(list(known))}")
    if outside := [c for c in found if c not in set(known)]:
        name = next(v.name for v in videos.values() if outside[0] in v.labels)
        raise DataError(
            f"{path}: label {outside[0]!r} of video {name!r} is not in the list of {len(known)} classes; "
            "correct it, or add it to `classes`"
        )
    report = _report(videos.values())
    odd = [f"{count} {what}" for what, count in report.items() if count and what in ("degenerate", "overrunning")]
    if odd:
        text = f"{path}: {' and '.join(odd)} segments are kept, such as {' and '.join(_examples(videos))}"
        warnings.warn(text, AnnotationWarning, stacklevel=3)
    for text in [*_mixed_dialects(tree["database"]), *_two_durations(tree["database"])]:
        warnings.warn(f"{path}: {text}", AnnotationWarning, stacklevel=3)
    seconds = _positive(path, tree, "snippet_seconds")
    frames = {k: v for k in ("fps", "stride", "snippet_frames") if (v := usable(tree.get(k))) is not None}
    return Annotations(known, videos, tree.get("streams"), seconds, str(path), report, frames, ids=ids)


def _video(path: str | os.PathLike, name: str, entry: Any) -> Video:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: video {name!r} must be an object, got {shown(entry)}")
    for key in ("annotations", "video_labels"):
        if not isinstance(entry.get(key) or [], list):
            raise DataError(f"{path}: video {name!r}: {key} must be a list, got {shown(entry[key])}")
    segments = tuple(_segment(path, name, a) for a in entry.get("annotations") or [])
    own = [_label(path, name, c) for c in entry.get("video_labels") or []]
    labels = dict.fromkeys([*own, *(s.label for s in segments)])
    subset = entry.get("subset")
    if subset is not None and not isinstance(subset, (str, int)):
        raise DataError(f"{path}: video {name!r}: subset must be a name, got {shown(subset)}")
    duration = _positive(path, entry, "duration_second", name) or _positive(path, entry, "duration", name)
    taken = ("subset", "duration_second", "duration", "fps", "video_labels", "annotations")
    info: dict[str, Any] = {k: v for k, v in entry.items() if k not in taken and isinstance(v, (str, int, float, bool))}
    if entry.get("counts") is not None:
        info["counts"] = _counts(path, name, entry["counts"], labels)
    fps = usable(entry.get("fps"))
    return Video(name, None if subset is None else str(subset), duration, fps, tuple(labels), segments, info)


def _counts(path: str | os.PathLike, name: str, value: Any, labels: Collection[str]) -> dict[str, int]:
    """How often each label occurs in the video."""
    if not isinstance(value, dict) or any(type(n) is not int or n < 0 for n in value.values()):
        raise DataError(f"{path}: video {name!r}: counts must be whole numbers by label, got {shown(value)}")
    if outside := [c for c, n in value.items() if n and c not in labels]:
        raise DataError(f"{path}: video {name!r}: counts are of {outside[0]!r}, which is none of its labels")
    return dict(value)


def _segment(path: str | os.PathLike, name: str, entry: Any) -> Segment:
    try:  # as files have them
        label, (start, end) = entry["label"], entry["segment"]
        plain = type(label) is str and type(start) in _NUMBERS and type(end) in _NUMBERS
        if plain and label.strip() and -LONGEST <= start <= end <= LONGEST and type(entry["segment"]) is list:
            return Segment(intern(label), float(start), float(end))
    except (KeyError, TypeError, ValueError):
        pass
    try:
        label = entry["label"] if "label" in entry else entry["label_id"]
        start, end = seconds(entry["segment"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: video {name!r}: expected label and segment [start, end], got {shown(entry)}"
        ) from error
    if not are_times(start, end):
        raise DataError(f"{path}: video {name!r}: segment [{start}, {end}] of {label!r} is not finite or no time")
    if end < start:
        raise DataError(
            f"{path}: video {name!r}: segment [{start}, {end}] of {label!r} ends before it starts; correct or remove it"
        )
    return Segment(_label(path, name, label), start, end)


def _label(path: str | os.PathLike, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{path}: video {name!r}: a label must be the name of a class, got {shown(value)}")
    if not str(value).strip():
        raise DataError(f"{path}: video {name!r}: a label is empty; name its class, or remove it")
    return intern(str(value))


def _positive(path: str | os.PathLike, entry: dict, key: str, video: str | None = None) -> float | None:
    value = entry.get(key)
    if isinstance(value, _NUMBERS) and not isinstance(value, bool) and 0 < value <= LONGEST:
        return float(value)
    if value is None or (number := usable(value)) is not None:
        return None if value is None else number
    where = f"video {video!r}: " if video else ""
    raise DataError(f"{path}: {where}{key} must be a positive number, got {shown(value)}")


def _overruns(segment: Segment, video: Video) -> bool:
    return video.duration is not None and segment.end > video.duration + ROUNDING


def _examples(videos: dict[str, Video]) -> Iterator[str]:
    """The first segment of each odd kind."""
    every = ((s, v) for v in videos.values() for s in v.segments)
    for s, v in islice((e for e in every if e[0].end <= e[0].start), 1):
        yield f"[{s.start}, {s.end}] of {s.label!r} in video {v.name!r}"
    every = ((s, v) for v in videos.values() for s in v.segments)
    for s, v in islice((e for e in every if _overruns(*e)), 1):
        yield f"[{s.start}, {s.end}] of {s.label!r} in video {v.name!r}, which lasts {v.duration} s"


def _mixed_dialects(database: dict[str, Any]) -> Iterator[str]:
    """Ways of writing the same thing that the file's videos do not share, the rarer one's videos named."""
    ways: dict[str, list[str]] = {"duration_second": [], "duration": [], "names": [], "numbers": []}
    for name, entry in database.items():
        for key in ("duration_second", "duration"):
            if entry.get(key) is not None:
                ways[key].append(name)
        labels = [a.get("label", a.get("label_id")) for a in entry.get("annotations") or []]
        if numbers := [isinstance(c, int) for c in (*labels, *(entry.get("video_labels") or []))]:
            if all(numbers):
                ways["numbers"].append(name)
            elif not any(numbers):
                ways["names"].append(name)
    for a, b, what in (("duration_second", "duration", "lengths as"), ("names", "numbers", "labels as")):
        few, many = sorted((a, b), key=lambda key: len(ways[key]))
        if ways[few] and set(ways[few]) != set(ways[many]):
            yield (
                f"two dialects are mixed: {len(ways[many])} videos give {what} {many}, {len(ways[few])} as {few}: "
                f"{some(ways[few])}; both are read"
            )


def _two_durations(database: dict[str, Any]) -> Iterator[str]:
    """What is said where `duration_second`, which counts, and `duration` of a video differ."""
    keys = ("duration_second", "duration")
    given = ((v, [x.get(key) for key in keys]) for v, x in database.items())
    both = {v: (usable(a), usable(b)) for v, (a, b) in given if a is not None and b is not None}
    if differ := {v: (a, b) for v, (a, b) in both.items() if a and b and abs(a - b) > ROUNDING}:
        v, (a, b) = next(iter(differ.items()))
        yield (
            f"{len(differ)} videos have another duration than duration_second, which is followed: {v!r} lasts "
            f"{a:.9g} s by duration_second and {b:.9g} by duration"
        )


def _report(videos: Iterable[Video]) -> dict[str, int]:
    found = {"segments": 0, "degenerate": 0, "overrunning": 0}
    for video in videos:
        last = math.inf if video.duration is None else video.duration + ROUNDING
        found["segments"] += len(video.segments)
        for segment in video.segments:
            found["degenerate"] += segment.end <= segment.start
            found["overrunning"] += segment.end > last
    return found
