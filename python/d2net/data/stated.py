"""What data say of their own timing, and whether their lengths agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from d2net.data.annotations.model import Annotations, Video
from d2net.data.features import FeatureError, FeatureStore
from d2net.data.files import some
from d2net.timing import Statement, Timing

FRAMES = ("fps", "stride", "snippet_frames")


class Stated(NamedTuple):
    """statements: of all videos alike, the features' first. videos: of single videos, where they differ."""

    statements: list[Statement]
    videos: dict[str, Timing]


def stated_timing(annotations: Annotations | None, store: FeatureStore | None, names: Sequence[str]) -> Stated:
    """What the features' file and the annotations state.

    An annotation's `fps` is the video's rate: it counts only beside a stride and snippet_frames that the annotations
    or the features' file state.
    """
    statements = []
    of_store = dict(store.stated) if store is not None else {}
    if of_store and store is not None:
        statements.append(Statement(store.source, of_store))
    if annotations is None:
        return Stated(statements, {})
    source = annotations.source
    if annotations.snippet_seconds is not None:
        statements.append(Statement(source, {"snippet_seconds": annotations.snippet_seconds}))
    shared = {k: v for k, v in {**annotations.frames, **of_store}.items() if k in FRAMES}
    own = {v: _own(annotations.videos[v], shared, of_store) for v in names if v in annotations.videos}
    each = {v: timing for v, timing in own.items() if timing is not None}
    if len(each) == len(own) and len(set(each.values())) == 1:
        statements.append(Statement(source, next(iter(each.values())).to_dict()))
        each = {}
    return Stated(statements, each)


def _own(video: Video, shared: Mapping[str, float], of_store: Mapping[str, float]) -> Timing | None:
    fields = dict(shared)
    for name, value in {"fps": video.fps, **{k: _number(video.info.get(k)) for k in FRAMES[1:]}}.items():
        if value is not None and name not in of_store:
            fields[name] = value
    try:
        return Timing(**fields) if all(name in fields for name in FRAMES) else None
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) or value is None else float(value)
    except (ValueError, OverflowError):
        return None


def fits(snippets: float, expected: float) -> bool:
    """Whether a number of snippets is what a duration makes, within an extractor's rounding at both ends."""
    return abs(snippets - expected) <= max(2.0, 0.02 * expected)


def compare_lengths(
    lengths: Mapping[str, int],
    durations: Mapping[str, float],
    timing: Callable[[str], Timing | None],
    source: str,
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
            f"{when} ({source}): {v!r} has {lengths[v]}, {durations[v]:g} s make {wanted:.1f}"
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
    names: Iterable[str], timing: Callable[[str], Timing | None], source: str, rates: Mapping[str, float]
) -> list[str]:
    """What is said where only rates can be compared."""
    differ = [v for v in names if v in rates and (when := timing(v)) and when.fps and when.fps != rates[v]]
    if not differ:
        return []
    return [
        f"{len(differ)} videos are of another fps in the annotations than in the timing, {timing(differ[0])} "
        f"({source}): {differ[0]!r} is of {rates[differ[0]]:g}; no duration says which is right, so the timing counts"
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
