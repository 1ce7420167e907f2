"""Which annotated videos have features, and which features no annotation."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from d2net.data.annotations.model import Annotations, Video
from d2net.data.inspect.findings import Finding, listed
from d2net.data.names import aliases, hint


def matched(annotations: Annotations, known: Collection[str]) -> tuple[dict[str, Video], dict[str, str]]:
    """The annotated videos that have features by the features' names, and {annotated name: the features' name}."""
    alias = aliases(annotations.videos, known)
    videos = {alias.get(name, name): video for name, video in annotations.videos.items()}
    return {name: video for name, video in videos.items() if name in known}, alias


def coverage_findings(
    annotations: Annotations, names: Collection[str], both: Mapping[str, Video], alias: Mapping[str, str]
) -> list[Finding]:
    """names: of the features; both, alias: what `matched` gives."""
    found: list[Finding] = []
    if alias:
        given, used = next(iter(alias.items()))
        text = f"{len(alias)} names match the features once normalized, such as {given!r} and {used!r}"
        found.append(Finding("note", "names normalized", text, len(alias), tuple(alias)[:3]))
    here = {alias.get(name, name) for name in annotations.videos}
    surplus = [n for n in names if n not in here]
    if not both:
        near = hint(list(annotations.videos), surplus)
        text = f"not one of {len(annotations.videos)} annotated videos has features{near}; use the same names"
        return [Finding("error", "missing features", text, len(annotations.videos))]
    missing: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name, video in annotations.videos.items():
        subset = video.subset or "none"
        sizes[subset] = sizes.get(subset, 0) + 1
        if alias.get(name, name) not in both:
            missing.setdefault(subset, []).append(name)
    for subset, lost in missing.items():
        if len(lost) == sizes[subset]:
            text = f"none of the {len(lost)} videos of subset {subset} has features"
            found.append(Finding("warning", "missing features", text, len(lost), tuple(lost[:3])))
            continue
        what = f"of {sizes[subset]} videos of subset {subset} have no features"
        found += listed("error", "missing features", what, lost, "extract them, or pass --skip-missing")
        if near := hint(lost, surplus):
            found[-1] = _with(found[-1], near)
    extra = listed("warning", "surplus features", "videos have features but no annotation", surplus)
    if extra and (near := hint(surplus, [n for lost in missing.values() for n in lost])):
        extra = [_with(extra[0], near)]
    return [*found, *extra]


def _with(finding: Finding, more: str) -> Finding:
    return Finding(finding.level, finding.kind, finding.text + more, finding.count, finding.names)
