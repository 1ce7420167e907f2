"""Activations, λ, λ', ground truth and detections of videos over time (the paper's Figs. 1 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from d2net.evaluation.errors import TRUE
from d2net.plots import style
from d2net.plots.choosing import thinned
from d2net.terminal import seconds as clock

POINTS = 1500  # of a curve: about one a pixel
CROWDED = 400  # snippets from which on curves over one another are a thicket
WIDTH = 12.0  # inches
CURVES, LANE, THUMBNAILS, AXIS = 1.7, 0.3, 0.75, 0.4  # inches of height


@dataclass(frozen=True)
class Track:
    """One run on one video.

    Args:
        step: (stride, length) of a snippet in seconds.
        activations: {class: T (s,)} of the classes shown; attention: λ (s,), the largest T of all classes.
        foreground: λ' (s,), or None.
        found: (class, start, end, score, kind) of the classes shown, the surest first; kind as `Results.kind`.
        left_out: detections that are not among them.
    """

    run: str
    step: tuple[float, float]
    activations: dict[str, np.ndarray]
    attention: np.ndarray
    foreground: np.ndarray | None
    found: list[tuple[str, float, float, float, int]]
    left_out: int = 0


@dataclass(frozen=True)
class Timeline:
    """A video and what runs make of it.

    Args:
        classes: shown, in order; left_out: how many others there are.
        truth: (class, start, end), or None where nothing says.
        at: IoU at which detections are true, or None where nothing says.
        thumbnails: (start, end, image) in seconds, images (h, w, 3).
        between: the seconds to show.
    """

    video: str
    between: tuple[float, float]
    classes: list[str]
    left_out: int
    truth: list[tuple[str, float, float]] | None
    tracks: list[Track]
    at: float | None = None
    thumbnails: Sequence[tuple[float, float, np.ndarray]] = field(default=())


def draw_timelines(path: Any, timelines: Sequence[Timeline]) -> None:
    """Saves one picture of all, each video below the one before it.

    Raises:
        ValueError: more videos than a picture can hold.
    """
    rows = [_rows(t) for t in timelines]
    heights = [h for part in rows for _, h in part]
    with style.figure(WIDTH, sum(heights) + 0.2) as figure:
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        at = 0
        for timeline, part in zip(timelines, rows, strict=True):
            axes: list[Any] = []
            for _ in part:
                axes.append(figure.add_subplot(grid[at], sharex=axes[0] if axes else None))
                at += 1
            _draw(timeline, part, axes)
        style.save(path, figure)


def _rows(timeline: Timeline) -> list[tuple[str, float]]:
    """What stands in each row, and its inches."""
    lanes = LANE * max(1, len(timeline.classes))
    rows = [("thumbnails", THUMBNAILS + 0.2)] if len(timeline.thumbnails) else []
    if timeline.truth is not None:
        rows.append(("truth", 0.25 + 0.6 * LANE * max(1, len(_with_truth(timeline)))))
    curves = 0.25 + LANE * (len(timeline.classes) + 2) if _crowded(timeline) else CURVES
    for _ in timeline.tracks:
        rows += [("curves", curves), ("found", lanes + 0.1)]
    kind, height = rows[-1]
    rows[-1] = kind, height + AXIS
    return rows


def _draw(timeline: Timeline, rows: Sequence[tuple[str, float]], axes: Sequence[Any]) -> None:
    tracks = iter(timeline.tracks)
    track, first = None, True
    for (kind, _), ax in zip(rows, axes, strict=True):
        if kind == "thumbnails":
            _thumbnails(ax, timeline)
        elif kind == "truth":
            _truth(ax, timeline)
        elif kind == "curves":
            track = next(tracks)
            _curves(ax, timeline, track, legend=first)
            first = False
        else:
            assert track is not None
            _found(ax, timeline, track)
        ax.tick_params(labelbottom=ax is axes[-1], bottom=ax is axes[-1])
    axes[0].set_xlim(*timeline.between)
    axes[0].set_title(style.shown(timeline.video, 100), fontsize=11, fontweight="bold")
    _time_axis(axes[-1], timeline)


def _time_axis(ax: Any, timeline: Timeline) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    a, b = timeline.between
    if b - a > 180:
        steps = [1, 1.5, 3, 6, 10]  # of minutes and of hours
        ax.xaxis.set_major_locator(MaxNLocator(12, steps=steps))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock(max(0.0, x))))
    notes = [
        "minutes" if b - a > 180 and b < 3600 else "hours" if b - a > 180 else "seconds",
        style.left_out(timeline.left_out, "classes"),
    ]
    if not timeline.classes:
        notes.append("nothing was found")
    ax.set_xlabel("; ".join(filter(None, notes)))


def _thumbnails(ax: Any, timeline: Timeline) -> None:
    for start, end, image in timeline.thumbnails:
        ax.imshow(image, extent=(start, end, 0, 1), aspect="auto", interpolation="bilinear")
    ax.set_ylim(0, 1)
    _bare(ax)


def _truth(ax: Any, timeline: Timeline) -> None:
    assert timeline.truth is not None
    least = _least_width(timeline)
    classes = _with_truth(timeline)
    for lane, c in enumerate(classes):
        spans = [(a, b) for label, a, b in timeline.truth if label == c]
        ax.bar(
            [a for a, _ in spans], [0.8] * len(spans), [max(b - a, least) for a, b in spans], bottom=lane - 0.4,
            align="edge", color=style.color(timeline.classes.index(c)), gid=f"truth {style.shown(c)}",
        )  # fmt: skip
    _lanes(ax, classes)
    ax.set_ylabel("ground\ntruth", rotation=0, ha="right", va="center")


def _curves(ax: Any, timeline: Timeline, track: Track, legend: bool) -> None:
    """T of the classes, λ and λ' over one another, or where they are long, each in a lane of its own."""
    names = [c for c in timeline.classes if c in track.activations]
    at, means, least, most, size = _visible(timeline, track, names)
    shown = [("λ, the largest of all classes", {"color": "0.25", "linewidth": 0.7})]
    shown += [(style.shown(c), style.line(timeline.classes.index(c))) for c in names]
    if track.foreground is not None:
        shown.append(("λ', the foreground score", {"color": "0.55", "linestyle": (0, (3, 2))}))
    crowded = _crowded(timeline)
    for k, (label, how) in enumerate(shown):
        if not len(at):
            break
        if crowded:
            base = k + 0.45
            ax.fill_between(at, base, base - 0.9 * means[:, k], color=how["color"], linewidth=0, label=label)
            ax.plot(at, base - 0.9 * most[:, k], color=how["color"], linewidth=0.4)
            continue
        ax.plot(at, means[:, k], marker="." if len(at) == 1 else "", label=label, **how)
        if size > 1:
            ax.fill_between(at, least[:, k], most[:, k], color=how["color"], alpha=0.2, linewidth=0)
    thin = f"means of {size} snippets" if size > 1 else ""
    if crowded:
        _lanes(ax, [label for label, _ in shown])
        ax.set_ylabel("activation,\n0 to 1", rotation=0, ha="right", va="center")
        thin = f"{thin}, the line their largest" if thin else ""
    else:
        ax.set_ylim(0, 1.02)
        ax.set_ylabel("activation")
        if legend:
            ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), borderaxespad=0)
    ax.set_title("; ".join(filter(None, (track.run, thin))))


def _visible(timeline: Timeline, track: Track, names: Sequence[str]) -> tuple[Any, Any, Any, Any, int]:
    """Seconds of the points shown, and means, least and largest values there of λ, the classes and λ'."""
    stride, length = track.step
    curves = [track.attention, *(track.activations[c] for c in names)]
    if track.foreground is not None:
        curves.append(track.foreground)
    table = np.stack(curves, 1).astype(np.float64)
    middle = np.arange(len(table)) * stride + length / 2
    a, b = timeline.between
    inside = (middle >= a - stride) & (middle <= b + stride)
    if not inside.any():
        return middle[:0], table[:0], table[:0], table[:0], 1
    means, least, most, size = thinned(table[inside], POINTS)
    at, _, _, _ = thinned(middle[inside][:, None], POINTS)
    return at[:, 0], means, least, most, size


def _crowded(timeline: Timeline) -> bool:
    a, b = timeline.between
    return max((b - a) / t.step[0] for t in timeline.tracks) > CROWDED


def _found(ax: Any, timeline: Timeline, track: Track) -> None:
    """A bar a detection, as high as its score: filled where it is true, hatched where it is false."""
    least, best = _least_width(timeline), max((d[3] for d in track.found), default=0.0)
    for lane, c in enumerate(timeline.classes):
        rows = [d for d in track.found if d[0] == c]
        # The widest first, so that none hides a smaller one.
        for _, start, end, score, kind in sorted(rows, key=lambda d: d[1] - d[2]):
            height = 0.9 * (max(0.12, score / best) if best > 0 else 1.0)
            how: dict[str, Any] = {"facecolor": style.color(lane), "alpha": 0.75}
            if timeline.at is not None and kind != TRUE:
                how = {"facecolor": "white", "hatch": "/////", "alpha": 0.9}
            ax.bar(
                start, height, max(end - start, least), bottom=lane + 0.45 - height, align="edge", zorder=2,
                edgecolor=style.color(lane), linewidth=0.8, gid=f"found {style.shown(c)}", **how,
            )  # fmt: skip
    _lanes(ax, timeline.classes)
    judged = "" if timeline.at is None else f", hatched where false at IoU {timeline.at:g}"
    more = style.left_out(track.left_out, "detections")
    text = "no detections" if not track.found else f"{len(track.found)} detections, as high as their score{judged}"
    ax.set_title("; ".join(filter(None, (text, more))), fontsize=8, color="0.3")
    ax.set_ylabel("found", rotation=0, ha="right", va="center")


def _with_truth(timeline: Timeline) -> list[str]:
    return [c for c in timeline.classes if any(label == c for label, *_ in timeline.truth or ())]


def _lanes(ax: Any, classes: Sequence[str]) -> None:
    ax.set_ylim(max(1, len(classes)) - 0.45, -0.55)
    ax.yaxis.tick_right()
    ax.set_yticks(range(len(classes)), [style.shown(c, 30) for c in classes], fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.yaxis.set_label_position("left")
    ax.spines["left"].set_visible(False)


def _bare(ax: Any) -> None:
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _least_width(timeline: Timeline) -> float:
    """Seconds that a bar needs to be seen."""
    a, b = timeline.between
    return (b - a) / 1200
