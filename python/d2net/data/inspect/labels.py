"""Videos, classes, instances and co-occurrence of an annotation file, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from d2net.data.annotations.model import Annotations, Video
from d2net.data.files import some
from d2net.data.inspect.findings import Finding, listed, spread
from d2net.data.inspect.subsets import subsets_of

MOST_PAIRS = 1000


def describe(annotations: Annotations) -> dict[str, Any]:
    """The annotations' numbers as plain values: videos, subsets, durations (s), classes and co-occurrence."""
    videos = list(annotations.videos.values())
    by_subset: dict[str, list[Video]] = {}
    for v in videos:
        by_subset.setdefault(v.subset or "none", []).append(v)
    segments = [s for v in videos for s in v.segments]
    return {
        "source": annotations.source,
        "videos": len(videos),
        "instances": len(segments),
        "labels_per_video": sum(len(v.labels) for v in videos) / max(len(videos), 1),
        "duration_seconds": spread([v.duration for v in videos if v.duration is not None]),
        "instance_seconds": spread([s.end - s.start for s in segments]),
        "subsets": {name: _subset(part) for name, part in by_subset.items()},
        "classes": _classes(annotations, videos),
        "co_occurrence": _pairs(videos),
    }


def _subset(videos: Sequence[Video]) -> dict[str, Any]:
    return {
        "videos": len(videos),
        "labelled": sum(bool(v.labels) for v in videos),
        "with_segments": sum(bool(v.segments) for v in videos),
        "instances": sum(len(v.segments) for v in videos),
        "classes": len({c for v in videos for c in v.labels}),
        "hours": sum(v.duration or 0.0 for v in videos) / 3600,
    }


def shares(videos: Sequence[Video]) -> dict[str, list[float]]:
    """{class: the share of each video's duration that its instances fill, overlaps once}, where both are known."""
    found: dict[str, list[float]] = {}
    for v in videos:
        if not v.duration:
            continue
        for c in {s.label for s in v.segments}:
            filled, end = 0.0, 0.0
            for s in sorted((s for s in v.segments if s.label == c), key=lambda s: s.start):
                filled += max(0.0, min(s.end, v.duration) - max(s.start, end, 0.0))
                end = max(end, s.end)
            found.setdefault(c, []).append(filled / v.duration)
    return found


def _classes(annotations: Annotations, videos: Sequence[Video]) -> list[dict[str, Any]]:
    per: dict[str, Counter[str]] = {c: Counter() for c in annotations.classes}
    seconds: dict[str, list[float]] = {c: [] for c in annotations.classes}
    for v in videos:
        for c in v.labels:
            per[c][v.subset or "none"] += 1
        for s in v.segments:
            seconds[s.label].append(s.end - s.start)
    filled = shares(videos)
    return [
        {
            "name": c,
            "videos": dict(per[c]),
            "instances": len(seconds[c]),
            "instance_seconds": spread(seconds[c]),
            "share_of_video": spread(filled.get(c, [])),
        }
        for c in annotations.classes
    ]


def _pairs(videos: Sequence[Video]) -> list[dict[str, Any]]:
    """Classes that are in a video together, the most frequent first."""
    alone = Counter(c for v in videos for c in v.labels)
    pairs = Counter(p for v in videos for p in combinations(sorted(v.labels), 2))
    return [
        {"classes": [a, b], "videos": n, "of_first": n / alone[a], "of_second": n / alone[b]}
        for (a, b), n in pairs.most_common(MOST_PAIRS)
    ]


def label_findings(annotations: Annotations) -> list[Finding]:
    """Label sets that differ: between subsets, the class list, labels and segments, and in spelling."""
    videos = annotations.videos
    training, test = subsets_of(annotations)
    found: list[Finding] = []
    if training is None:
        text = "no video names a subset; add `subset` to each: training needs it"
        found.append(Finding("error", "no subset", text, len(videos)))
    lost = [v.name for v in videos.values() if v.subset is None]
    if training is not None:
        found += listed("warning", "no subset", "videos name no subset and are in no part", lost)
    held: dict[str, set[str]] = {}
    for v in videos.values():
        held.setdefault((v.subset or "none").lower(), set()).update(v.labels)
    trained = held.get((training or "none").lower(), set())
    if not trained:
        where = f"subset {training}" if training else "the file"
        found.append(Finding("error", "no labels", f"no video of {where} has a label: nothing can be learnt"))
    everywhere = set().union(*held.values())
    unused = [c for c in annotations.classes if c not in everywhere]
    found += listed("warning", "class without video", "classes of the list are in no video", unused)
    for name, labels in held.items():
        if trained and test is not None and name == test.lower() and name != (training or "").lower():
            strange = sorted(labels - trained)
            what = f"classes of subset {test} have no video in subset {training} and cannot be learnt"
            found += listed("warning", "label sets differ", what, strange)
            lost = sorted(trained - labels)
            found += listed("note", "label sets differ", f"classes of subset {training} are not in {test}", lost)
    bare = [v.name for v in videos.values() if not v.labels]
    found += listed("note", "no label", "videos have no label", bare, "they enter no loss")
    halves = [v.name for v in videos.values() if v.segments and set(v.labels) - {s.label for s in v.segments}]
    found += listed("warning", "label without segment", "videos have a label that none of their segments has", halves)
    weak = [v.name for v in videos.values() if v.labels and not v.segments]
    if weak and len(weak) < len(videos):
        found += listed("note", "no segments", "videos have labels but no segments", weak)
    once = [c for c in sorted(trained) if sum(c in v.labels for v in videos.values() if _is(v, training)) < 3]
    found += listed("note", "rare class", f"classes have fewer than 3 videos in subset {training}", once)
    return found


def _is(video: Video, subset: str | None) -> bool:
    return (video.subset or "none").lower() == (subset or "none").lower()


def compare(first: Annotations, other: Annotations) -> list[Finding]:
    """Where a second annotation file differs: videos, classes, labels, instances."""
    place = other.source
    found: list[Finding] = []
    for what, a, b in (
        ("videos", list(first.videos), list(other.videos)),
        ("classes", list(first.classes), list(other.classes)),
    ):
        kind = "label sets differ" if what == "classes" else "other videos"
        for mine, theirs, ours, place_of in ((a, set(b), first.source, place), (b, set(a), place, first.source)):
            lost = [x for x in mine if x not in theirs]
            found += listed("warning", kind, f"{what} of {ours} are not in {place_of}", lost)
    both = [v for v in first.videos if v in other.videos]
    mixed = [v for v in both if set(first.videos[v].labels) != set(other.videos[v].labels)]
    found += listed("warning", "label sets differ", f"videos have other labels in {place}", mixed)
    alike = [v for v in both if set(first.videos[v].labels) == set(other.videos[v].labels)]
    moved = [v for v in alike if Counter(first.videos[v].segments) != Counter(other.videos[v].segments)]
    found += listed("note", "segments differ", f"videos have the same labels, but other segments in {place}", moved)
    a, b = (sum(len(v.segments) for v in x.videos.values()) for x in (first, other))
    if a != b:
        found.append(Finding("note", "instances differ", f"{first.source} has {a} instances, {place} {b}", abs(a - b)))
    return found


def spelling(annotations: Annotations) -> list[Finding]:
    """Classes that look like one name in several spellings, and subset names that differ in case alone."""
    found = []
    spelt: dict[str, list[str]] = {}
    for c in annotations.classes:
        spelt.setdefault("".join(x for x in c.casefold() if x.isalnum()) or c, []).append(c)
    if alike := [names for names in spelt.values() if len(names) > 1]:
        text = f"{len(alike)} classes are spelt in several ways, each trained as its own: {some(alike[0])}"
        found.append(Finding("warning", "class spelt in several ways", text, len(alike), tuple(alike[0])))
    subsets = Counter(v.subset for v in annotations.videos.values() if v.subset is not None)
    folded: dict[str, list[str]] = {}
    for name in subsets:
        folded.setdefault(name.casefold(), []).append(name)
    if mixed := [names for names in folded.values() if len(names) > 1]:
        counts = " and ".join(f"{name!r} ({subsets[name]} videos)" for name in mixed[0])
        text = f"subset names differ in case and are taken as one: {counts}"
        found.append(Finding("warning", "subset spelt in several ways", text, len(mixed), tuple(mixed[0])))
    return found
