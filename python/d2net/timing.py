"""When a snippet is: from snippet indices to seconds, and whose word on it counts."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np


class UnknownTiming(ValueError):
    """Seconds were asked for and nothing says when a snippet is."""


class TimingWarning(UserWarning):
    """What is said of the timing is contradicted, by another source or by the videos' durations."""


@dataclass(frozen=True)
class Timing:
    """Snippet i covers [i·stride/fps, (i·stride + snippet_frames)/fps) seconds.

    Args:
        fps, stride, snippet_frames: frames per second, frames between snippets, frames in one; all three.
        snippet_seconds: in place of them: back-to-back snippets of this length.
        resized: in place of them: features were resized to a fixed length, so that stride = duration / s.

    Raises:
        ValueError: incomplete, conflicting, or not positive and finite.
    """

    fps: float | None = None
    stride: float | None = None
    snippet_frames: float | None = None
    snippet_seconds: float | None = None
    resized: bool = False

    def __post_init__(self) -> None:
        frames = {"fps": self.fps, "stride": self.stride, "snippet_frames": self.snippet_frames}
        given = {k: v for k, v in {**frames, "snippet_seconds": self.snippet_seconds}.items() if v is not None}
        for name, value in given.items():
            if not isinstance(value, (int, float)) or not 1e-9 <= value <= 1e9:
                shown = reprlib.repr(value)
                raise ValueError(f"timing: {name} must be a positive number, 1e-9 to 1e9, got {shown}")
        of_frames = [k for k in frames if k in given]
        kinds = bool(of_frames) + ("snippet_seconds" in given) + bool(self.resized)
        if kinds > 1:
            said = ", ".join(f"{k} {v:.9g}" for k, v in given.items())
            raise ValueError(
                f"timing: {said}{' and resized' if self.resized else ''} exclude each other; "
                "give fps, stride and snippet_frames, or snippet_seconds, or resized"
            )
        if kinds == 0:
            raise UnknownTiming("timing: give fps, stride and snippet_frames, or snippet_seconds, or resized")
        if of_frames and len(of_frames) < 3:
            missing = [k for k in frames if k not in given]
            raise ValueError(f"timing: {', '.join(of_frames)} given without {' and '.join(missing)}")

    def steps(self, duration: float | None, snippets: int | None) -> tuple[float, float]:
        """(stride, snippet length) in seconds."""
        if self.snippet_seconds is not None:
            return self.snippet_seconds, self.snippet_seconds
        if self.resized:
            if duration is None or not snippets:
                raise UnknownTiming("timing: resized features need the video's duration and its number of snippets")
            return duration / snippets, duration / snippets
        assert self.fps and self.stride and self.snippet_frames
        return self.stride / self.fps, self.snippet_frames / self.fps

    def seconds(
        self, start: np.ndarray, end: np.ndarray, duration: float | None = None, snippets: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Half-open snippet ranges [start, end) in seconds, clipped to the duration where it is known.

        [a, b) becomes [a·stride/fps, ((b − 1)·stride + snippet_frames)/fps). start and end may be fractions of
        snippets (upsampled activations); a range shorter than a snippet keeps its share of the snippet's length.
        """
        return to_seconds(start, end, *self.steps(duration, snippets), np.inf if duration is None else duration)

    def __str__(self) -> str:
        if self.snippet_seconds is not None:
            return f"snippets of {self.snippet_seconds:.9g} s"
        if self.resized:
            return "features resized to a fixed length"
        return f"a snippet of {self.snippet_frames:.9g} frames every {self.stride:.9g} at {self.fps:.9g} fps"

    def same_as(self, other: Timing) -> bool:
        """Whether both put every snippet at the same seconds."""
        if self.resized or other.resized:
            return self.resized == other.resized
        pairs = zip(self.steps(None, None), other.steps(None, None), strict=True)
        return all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Timing:
        return cls(**values)


def to_seconds(
    start: np.ndarray,
    end: np.ndarray,
    stride: np.ndarray | float,
    length: np.ndarray | float,
    duration: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    """As `Timing.seconds`, from the stride, snippet length and duration in seconds, of all ranges or of each.

    duration: inf where it is unknown.
    """
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    a, b = a * stride, b * stride + (length - stride) * np.minimum(b - a, 1.0)
    return (np.clip(a, 0, duration), np.clip(b, 0, duration)) if np.isfinite(duration).any() else (a, b)


_KINDS = (("fps", "stride", "snippet_frames"), ("snippet_seconds",), ("resized",))


class Statement(NamedTuple):
    """What one source says of the timing: some of Timing's fields. explicit: the user said it."""

    source: str
    fields: Mapping[str, Any]
    explicit: bool = False

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in self.fields.items() if v is not None and v is not False}


class Resolved(NamedTuple):
    """The timing, None where nobody states one; who stated it; and what contradicts it, in words."""

    timing: Timing | None
    source: str
    explicit: bool
    contradictions: list[str]


def _by_kind(statement: Statement) -> list[Statement]:
    """One statement for each way of saying it, so that what a source says twice is compared like what two say."""
    given = statement.given()
    parts = [{name: given[name] for name in kind if name in given} for kind in _KINDS]
    return [statement._replace(fields=part) for part in parts if part]


def resolve(statements: Sequence[Statement]) -> Resolved:
    """The first whole statement counts; later ones fill in fields of the same kind, as an fps beside another's stride.

    What is said otherwise, by another source or by the same one in other fields, is a contradiction, unless what is
    overruled is a preset by the user; and so is a part of a timing that nothing completes.

    Raises:
        ValueError: what the user states is incomplete or conflicting, or something is not positive; names its sources.
    """
    said = [s for whole in statements for s in ([whole] if whole.explicit else _by_kind(whole)) if s.given()]
    for place, leading in enumerate(said):
        try:
            timing = Timing(**_completed(leading, said[place + 1 :]))
        except ValueError as error:
            if leading.explicit:
                sources = " and ".join(dict.fromkeys(s.source for s in said))
                raise type(error)(f"{error} (by {sources})") from None
            continue  # a part of a timing that nothing completes
        return Resolved(timing, leading.source, leading.explicit, _contradictions(timing, leading, said))
    parts = [f"timing: {s.source} says {_fields(s.given())} and no more: it is not used" for s in said]
    return Resolved(None, "", False, parts)


def _completed(leading: Statement, others: Sequence[Statement]) -> dict[str, Any]:
    merged = leading.given()
    kind = {name for k in _KINDS if any(name in merged for name in k) for name in k}
    for other in others:
        for name, value in other.given().items():
            if name in kind:
                merged.setdefault(name, value)
    return merged


def _fields(given: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} {value:.9g}" for name, value in given.items())


def _contradictions(timing: Timing, leading: Statement, said: Sequence[Statement]) -> list[str]:
    found = []
    for other in said:
        if other is leading or (leading.explicit and other.source.startswith("preset ")):
            continue
        given = other.given()
        try:
            theirs = Timing(**given)
        except ValueError:  # a part
            differ = {k: v for k, v in given.items() if getattr(timing, k) not in (None, v)}
            words = _fields(differ)
        else:
            words = "" if timing.same_as(theirs) else str(theirs)
        if words:
            also = "it also says" if other.source == leading.source else f"{other.source} says"
            found.append(f"timing: {leading.source} says {timing}, and is followed; {also} {words}")
    return found
