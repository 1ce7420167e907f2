"""What data say of their own timing, and whether their lengths agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from d2net.data.annotations.model import Annotations, Video
from d2net.data.features import FeatureError, FeatureStore
from d2net.data.files import some
from d2net.ranges import usable
from d2net.timing import Resolved, Statement, Timing

FRAMES = ("fps", "stride", "snippet_frames")


class Stated(NamedTuple):
    """statements: of all videos alike, the features' first. videos: of single videos, where they differ. notes: what is
    contradicted within, or incomplete."""

    statements: list[Statement]
    videos: dict[str, Timing]
    notes: list[str]


def stated_timing(annotations: Annotations | None, store: FeatureStore | None, names: Sequence[str]) -> Stated:
    """What the features' file and the annotations state.

    An annotation's `fps` is the video's rate: it counts only beside a stride and snippet_frames that the annotations
    or the features' file state.
    """
    of_store = dict(store.stated) if store is not None else {}
    statements = [Statement(store.source, of_store)] if of_store and store is not None else []
    if annotations is None:
        return Stated(statements, {}, [])
    source = annotations.source
    if annotations.snippet_seconds is not None:
        statements.append(Statement(source, {"snippet_seconds": annotations.snippet_seconds}))
    frames = {k: v for k, v in of_store.items() if k in FRAMES}
    videos = [annotations.videos[v] for v in names if v in annotations.videos]
    own = {v.name: {**annotations.frames, **_fields(v)} for v in videos}
    each = {v: timing for v, fields in own.items() if (timing := _timing({**fields, **frames})) is not None}
    notes = _partial(source, videos, each) + _overruled(source, statements, own, each)
    parts = {k: v for k, v in annotations.frames.items() if k != "fps"}
    if parts and not any(map(_timing, own.values())):
        statements.append(Statement(source, parts))
    if len(each) == len(own) and len(set(each.values())) == 1:
        statements.append(Statement(source, next(iter(each.values())).to_dict()))
        each = {}
    return Stated(statements, each, notes)


def _fields(video: Video) -> dict[str, float]:
    """What the video's entry states, as far as it can be used."""
    given = {"fps": video.fps, **{k: video.info.get(k) for k in (*FRAMES[1:], "snippet_seconds")}}
    return {name: number for name, value in given.items() if (number := usable(value)) is not None}


def _timing(fields: Mapping[str, float]) -> Timing | None:
    """Frames where they are whole, else snippet_seconds."""
    frames = {k: fields[k] for k in FRAMES if k in fields}
    seconds = {k: fields[k] for k in ("snippet_seconds",) if k in fields}
    try:
        return Timing(**(frames if len(frames) == len(FRAMES) else seconds))
    except ValueError:
        return None


def _partial(source: str, videos: Sequence[Video], each: Mapping[str, Timing]) -> list[str]:
    parts = {v.name: said for v in videos if v.name not in each and (said := _fields(v)).keys() - {"fps"}}
    if not parts:
        return []
    first, said = next(iter(parts.items()))
    return [
        f"timing: {source} says {_words(said)} of {first!r} and no more, so that it is not used, and the like of "
        f"{len(parts)} videos"
    ]


def _words(fields: Mapping[str, float]) -> str:
    return " and ".join(f"{name} {value:.9g}" for name, value in fields.items())


def _overruled(
    source: str, statements: Sequence[Statement], own: Mapping[str, Mapping[str, float]], each: Mapping[str, Timing]
) -> list[str]:
    """Videos whose entries say otherwise than what is taken of them, in whole or in other fields."""
    found = []
    for v, timing in each.items():
        seconds = own[v].get("snippet_seconds", timing.snippet_seconds)
        others = [_timing({k: own[v][k] for k in FRAMES if k in own[v]}), seconds and Timing(snippet_seconds=seconds)]
        found += [(v, timing, other) for other in others if other and not timing.same_as(other)]
    if not found:
        return []
    v, timing, other = found[0]
    names = [v for v, _, _ in found]
    by = f" by {statements[0].source}" if statements else ""
    count = len(dict.fromkeys(names))
    return [f"timing: {source} says {other} of {v!r}, but {timing}{by} is followed, so for {count} videos"]


def overruled_videos(found: Resolved, videos: Mapping[str, Timing], source: str) -> list[str]:
    """What is said where single videos' timings, out of `source`, and the one for all contradict each other."""
    if found.timing is None:
        return []
    differ = [v for v, timing in videos.items() if not timing.same_as(found.timing)]
    if not differ:
        return []
    all_say, own = f"{found.source} says {found.timing}", f"{source} says {videos[differ[0]]} of {differ[0]!r}"
    if found.explicit:
        return [f"timing: {all_say}, and is followed; {own}, and otherwise of {len(differ)} videos in all"]
    return [f"timing: {own}, and is followed, so for {len(differ)} videos; {all_say}"]


def durations_differ(kept: Mapping[str, float], source: str, others: Mapping[str, float], of: str) -> list[str]:
    """What is said where two sources give videos other durations, beyond what containers differ by."""
    differ = [v for v in kept if v in others and abs(kept[v] - others[v]) > max(1.0, 0.02 * kept[v])]
    if not differ:
        return []
    v = differ[0]
    return [
        f"{len(differ)} videos are of another duration in {of} than in {source}, which is followed: {v!r} lasts "
        f"{kept[v]:g} s there, and {others[v]:g}"
    ]


def fits(snippets: float, expected: float) -> bool:
    """Whether a number of snippets is what a duration makes, within an extractor's rounding at both ends."""
    return abs(snippets - expected) <= max(2.0, 0.02 * expected)


def compare_lengths(
    lengths: Mapping[str, int],
    durations: Mapping[str, float],
    timing: Callable[[str], Timing | None],
    source: Callable[[str], str],
    rates: Mapping[str, float],
    width: int | None = None,
) -> list[str]:
    """What of the videos' numbers of snippets does not agree with their durations, counted, with an example.

    Args:
        timing: of a video; source: who states it; rates: the annotations' fps by video.
        width: of the features, to recognise arrays that are transposed.

    Raises:
        FeatureError: the arrays are (width, snippets).
    """
    expected: dict[str, tuple[Timing, float]] = {}
    for v in lengths:
        when = timing(v)
        if v in durations and when is not None and not when.resized:
            expected[v] = when, durations[v] / when.steps(None, None)[0]
    alike = len(lengths) > 1 and len(set(lengths.values())) == 1
    odd = [v for v, (_, wanted) in expected.items() if not fits(lengths[v], wanted)]
    if odd and alike and width is not None:
        turned = sum(fits(width, wanted) for _, wanted in expected.values())
        if 2 * turned >= len(expected) and 2 * len(odd) >= len(expected):
            v = odd[0]
            raise FeatureError(
                f"features: all {len(lengths)} arrays are ({lengths[v]}, {width}), but durations make about "
                f"{expected[v][1]:.0f} snippets of {v!r}: they look transposed; save them as (snippets, width)"
            )
    found = []
    if odd:
        v = odd[0]
        when, wanted = expected[v]
        found.append(
            f"{len(odd)} of {len(expected)} videos have other numbers of snippets than their durations make with "
            f"{when} ({source(v)}): {v!r} has {lengths[v]}, {durations[v]:g} s make {wanted:.1f}"
            + _remedy(odd, expected, lengths, rates)
        )
    elif not expected:
        found += _other_rates(lengths, timing, source, rates)
    spread = [durations[v] for v in lengths if v in durations]
    varied = len(spread) > 2 and max(spread) > 1.1 * min(spread)
    if alike and varied and (odd or not expected) and not _any_resized(lengths, timing):
        found.append(
            f"all {len(lengths)} videos have {next(iter(lengths.values()))} snippets, though they last {min(spread):g} "
            f"to {max(spread):g} s: say --resized where features were resized to a fixed length, and transpose arrays "
            "that are (width, snippets)"
        )
    return found


def _any_resized(names: Iterable[str], timing: Callable[[str], Timing | None]) -> bool:
    return any(when is not None and when.resized for when in map(timing, names))


def _other_rates(
    names: Iterable[str],
    timing: Callable[[str], Timing | None],
    source: Callable[[str], str],
    rates: Mapping[str, float],
) -> list[str]:
    """What is said where only rates can be compared."""
    differ = [v for v in names if v in rates and (when := timing(v)) and when.fps and when.fps != rates[v]]
    if not differ:
        return []
    v = differ[0]
    return [
        f"{len(differ)} videos are of another fps in the annotations than in the timing, {timing(v)} ({source(v)}): "
        f"{v!r} is of {rates[v]:g}; no duration says which is right, so the timing counts"
    ]


def _remedy(
    odd: Sequence[str],
    expected: Mapping[str, tuple[Timing, float]],
    lengths: Mapping[str, int],
    rates: Mapping[str, float],
) -> str:
    """That the annotations' fps explains it, where it does."""
    fitting = []
    for v in odd:
        when, wanted = expected[v]
        if v in rates and when.fps and fits(lengths[v], wanted * rates[v] / when.fps):
            fitting.append(v)
    if 2 * len(fitting) <= len(odd):
        return f"; correct fps and stride, or the durations ({some(odd)})"
    said, when = sorted({rates[v] for v in fitting}), expected[fitting[0]][0]
    if len(said) > 1:
        span = f"{said[0]:g} to {said[-1]:g}"
        return f"; they fit the annotations' fps, {span}: state stride and snippet_frames beside it"
    return (
        f"; they fit the annotations' fps: say --fps {said[0]:g} --stride {when.stride:g} "
        f"--snippet-frames {when.snippet_frames:g}"
    )
