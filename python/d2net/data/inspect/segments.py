"""Segments that are degenerate, given twice, overlap, or lie outside their video."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from d2net.data.annotations.model import ROUNDING, Annotations, Segment, Video
from d2net.data.inspect.findings import LISTED, Finding, Level

_ALIKE = 3  # pairs of classes that are quoted


def segment_findings(annotations: Annotations) -> list[Finding]:
    """One finding a kind, with how many segments in how many videos and the first of them."""
    odd: dict[str, list[tuple[Segment, Video]]] = {}
    for video in annotations.videos.values():
        for kind, segments in _odd(video).items():
            odd.setdefault(kind, []).extend((s, video) for s in segments)
    found = [_said(kind, level, text, odd[kind]) for kind, (level, text) in _KINDS.items() if odd.get(kind)]
    return [*found, *_same_times(annotations)]


_KINDS: dict[str, tuple[Level, str]] = {
    "degenerate": ("warning", "end where they start"),
    "duplicate": ("warning", "are given twice"),
    "overlapping": ("warning", "overlap another of their class"),
    "overrunning": ("warning", "end after their video does"),
    "outside": ("warning", "start after their video's end, or end before its start"),
    "negative": ("warning", "start before 0 s"),
}


def _odd(video: Video) -> dict[str, list[Segment]]:
    counts = Counter(video.segments)
    found = {
        "degenerate": [s for s in video.segments if s.end <= s.start],
        "duplicate": [s for s, n in counts.items() for _ in range(n - 1)],
        "overlapping": [],
        "negative": [s for s in video.segments if s.start < 0 < s.end],
        "outside": [s for s in video.segments if s.end <= 0 and s.start < 0],
    }
    by_class: dict[str, list[Segment]] = {}
    for s in counts:
        by_class.setdefault(s.label, []).append(s)
    for segments in by_class.values():
        end = -float("inf")
        for s in sorted(segments, key=lambda s: (s.start, s.end)):
            if s.start < end - ROUNDING and s.end > s.start:
                found["overlapping"].append(s)
            end = max(end, s.end)
    if video.duration is not None:
        limit = video.duration
        beyond = [s for s in video.segments if s.end > limit + ROUNDING]
        found["overrunning"] = [s for s in beyond if s.start < limit]
        found["outside"] += [s for s in beyond if s.start >= limit]
    return found


def _said(kind: str, level: Level, what: str, odd: list[tuple[Segment, Video]]) -> Finding:
    videos = list(dict.fromkeys(v.name for _, v in odd))
    s, v = odd[0]
    lasts = f", which lasts {v.duration:g} s" if v.duration is not None and kind in ("overrunning", "outside") else ""
    text = (
        f"{len(odd)} segments in {len(videos)} videos {what}, such as [{s.start:g}, {s.end:g}] of {s.label!r} in "
        f"{v.name!r}{lasts}"
    )
    return Finding(level, kind, text, len(odd), tuple(videos[:LISTED]))


def _same_times(annotations: Annotations) -> list[Finding]:
    """Pairs of classes whose instances share their times: one action under two names."""
    shared: Counter[tuple[str, str]] = Counter()
    instances: Counter[str] = Counter()
    for video in annotations.videos.values():
        ordered = sorted(set(video.segments), key=lambda s: (s.start, s.end, s.label))
        instances.update(s.label for s in ordered)
        for a, b in pairwise(ordered):
            if a.label != b.label and max(abs(a.start - b.start), abs(a.end - b.end)) <= ROUNDING:
                shared[a.label, b.label] += 1
    if not shared:
        return []
    said = "; ".join(
        f"{n} of {instances[a]} instances of {a!r} are also {b!r}" for (a, b), n in shared.most_common(_ALIKE)
    )
    more = f"; and {len(shared) - _ALIKE} more pairs" if len(shared) > _ALIKE else ""
    names = tuple(name for pair, _ in shared.most_common(_ALIKE) for name in pair)
    return [Finding("note", "two labels at once", f"segments with the same times: {said}{more}", shared.total(), names)]
