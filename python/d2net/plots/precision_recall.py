"""Precision over recall, and AP of each class, at one IoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2net.data.annotations import Annotations
from d2net.data.files import DataError
from d2net.evaluation.matching import by_falling_score, score
from d2net.evaluation.prepared import prepare
from d2net.plots import style
from d2net.plots.choosing import chosen_classes
from d2net.report.results import Results

MOST_CURVES, MOST_BARS = 6, 30
WIDTH, PANEL, BAR = 12.0, 3.4, 0.2


@dataclass(frozen=True)
class ClassCurve:
    """One class by one run: precision and recall after each detection that counts, by falling score; its AP and
    instances."""

    precision: np.ndarray
    recall: np.ndarray
    ap: float
    instances: int


def class_curves(run: Results, truth: Annotations, protocol: str, at: float) -> dict[str, ClassCurve]:
    """Of each class with instances, at IoU `at`. Precision is not interpolated; AP is the protocol's.

    Raises:
        DataError: the ground truth has no segments.
    """
    if not any(v.segments for v in truth.videos.values()):
        raise DataError(f"{truth.source} has no segments of these videos; precision and recall need them")
    data = prepare(run.detections, truth, protocol=protocol, iou=at, timing=run.model.timing)
    found, n = data.found, len(data.classes)
    outcome = score(found, data.truth, classes=n, iou=data.iou, protocol=data.rules, ignore=data.ignore)
    order = by_falling_score(found, data.rules.ties)
    hits, labels = outcome.partner[0][order] >= 0, found.label[order]
    counted = np.ones(len(order), bool) if data.ignore is None else hits | ~data.ignore[order]
    instances = np.bincount(data.truth.label, minlength=n)
    out = {}
    for c in data.present:
        own = hits[(labels == c) & counted]
        tp = np.cumsum(own)
        out[data.classes[c]] = ClassCurve(
            tp / np.arange(1, len(own) + 1), tp / instances[c], float(outcome.ap[0, c]), int(instances[c])
        )
    return out


def draw_precision_recall(
    path: Any,
    runs: Sequence[str],
    found: Sequence[dict[str, ClassCurve]],
    at: float,
    protocol: str,
    classes: Sequence[str] = (),
) -> None:
    """Saves a panel of curves for each run, above the APs of classes, all runs side by side.

    Curves are of the classes with most instances and APs of the best and the worst, unless `classes` names them.

    Raises:
        DataError: an unknown class.
    """
    every = list(found[0])
    wanted = chosen_classes(classes, every) if classes else []
    mean = {c: float(np.mean([f[c].ap for f in found])) for c in every}
    curves = wanted[:MOST_CURVES] or sorted(every, key=lambda c: -found[0][c].instances)[:MOST_CURVES]
    ranked = sorted(wanted or every, key=lambda c: -mean[c])
    half = MOST_BARS // 2
    bars = ranked if len(ranked) <= MOST_BARS else ranked[:half] + ranked[-half:]
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    below = BAR * max(4, len(bars) * (0.6 + 0.4 * len(runs))) + 0.9
    with style.figure(WIDTH, PANEL * rows + below + 0.3) as figure:
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=[PANEL] * rows + [below])
        for i, (name, of) in enumerate(zip(runs, found, strict=True)):
            ax = figure.add_subplot(grid[i // columns, i % columns])
            _panel(ax, name, of, curves, len(every) - len(curves))
        _bars(figure.add_subplot(grid[rows, :]), runs, found, bars, len(every) - len(bars), half)
        figure.suptitle(f"precision and recall at IoU {at:g}, {protocol} protocol", x=0.01, ha="left")
        style.save(path, figure)


def _panel(ax: Any, name: str, of: dict[str, ClassCurve], classes: Sequence[str], others: int) -> None:
    for i, c in enumerate(classes):
        k = of[c]
        # From the left edge at the first precision, as a step that falls at each detection.
        recall, precision = np.r_[0.0, k.recall], np.r_[k.precision[:1] if len(k.precision) else [0.0], k.precision]
        label = f"{style.shown(c, 24)}: AP {100 * k.ap:.1f}, {k.instances} instances"
        ax.plot(recall, precision, label=label, **style.line(i))
    ax.set_xlim(0, 1.01)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("; ".join(filter(None, ("recall", style.left_out(others, "classes")))))
    ax.set_ylabel("precision")
    mean = 100 * float(np.mean([k.ap for k in of.values()]))
    ax.set_title(f"{name}: mAP {mean:.1f} %, {len(of)} classes")
    ax.grid(alpha=0.25)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)


def _bars(
    ax: Any, runs: Sequence[str], found: Sequence[dict[str, ClassCurve]], classes: Sequence[str], others: int, half: int
) -> None:
    height = 0.8 / len(runs)
    for i, (name, of) in enumerate(zip(runs, found, strict=True)):
        places = np.arange(len(classes)) + (i - (len(runs) - 1) / 2) * height
        values = [100 * of[c].ap for c in classes]
        bars = ax.barh(
            places, values, height, label=name, color=style.color(i), hatch=style.hatch(i), edgecolor="white",
            linewidth=0,
        )  # fmt: skip
        ax.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    ax.set_yticks(range(len(classes)), [style.shown(c, 30) for c in classes], fontsize=8)
    ax.set_ylim(len(classes) - 0.4, -0.6)
    ax.set_xlim(0, 105)
    between = f", between the {half} best and the {half} worst" if others and len(classes) == 2 * half else ""
    ax.set_xlabel("; ".join(filter(None, ("AP in percent", style.left_out(others, "classes", between)))))
    if len(runs) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), borderaxespad=0)
