"""Runs side by side: mAP by IoU, over seeds, and how training went."""

from __future__ import annotations

from typing import Any

import numpy as np

from d2net.plots import style
from d2net.plots.curves import draw_term, terms_of
from d2net.report.collect import Collected

SHOWN = ("total", "classification", "gradient_norm")
WIDTH = 12.0


def draw_comparison(path: Any, found: Collected) -> None:
    """Saves what `d2net compare` prints: metrics where there are data, the last of training, what differs."""
    names = style.short_names([run.name for run in found.runs])
    terms = [t for t in SHOWN if t in terms_of(found.runs)]
    measured = bool(found.results) and all(r.metrics is not None for r in found.results)
    differ = found.differences()
    below = 0.25 + 0.22 * (len(differ) + 1) if differ else 0.0
    heights = [h for h in (2.9 * measured, 2.5 * bool(terms), below) if h]
    with style.figure(WIDTH, sum(heights) + 0.25 * len(names) + 0.3) as figure:
        grid = figure.add_gridspec(max(1, len(heights)), 6, height_ratios=heights or [1.0])
        row, first = 0, None
        if measured:
            first = figure.add_subplot(grid[row, :4])
            _by_iou(first, found, names)
            _averages(figure.add_subplot(grid[row, 4:]), found, names)
            row += 1
        for k, term in enumerate(terms):
            ax = figure.add_subplot(grid[row, 2 * k : 2 * k + 2])
            draw_term(ax, term, found.runs, names)
            first = first or ax
        row += bool(terms)
        if differ:
            _table(figure.add_subplot(grid[row, :]), differ, names)
        if first is not None:
            handles, labels = first.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=1 if len(names) > 4 else len(names))
        style.save(path, figure)


def _by_iou(ax: Any, found: Collected, names: list[str]) -> None:
    for i, (r, name) in enumerate(zip(found.results, names, strict=True)):
        assert r.metrics is not None
        values = [100 * v for v in r.metrics.mAP]
        ax.plot(r.metrics.iou, values, label=name, marker=style.MARKERS[i % len(style.MARKERS)], **style.line(i))
    for group in found.seeds():
        first = found.results[group["runs"][0]].metrics
        assert first is not None
        mean, spread = 100 * np.array(group["mean"][:-1]), 100 * np.array(group["deviation"][:-1])
        ax.fill_between(
            first.iou, mean - spread, mean + spread, color="0.5", alpha=0.25, linewidth=0,
            label=f"mean ± deviation of {len(group['runs'])} seeds",
        )  # fmt: skip
    ax.set_ylim(0, max(1.0, 1.06 * 100 * max(max(r.metrics.mAP) for r in found.results if r.metrics)))
    ax.set_xlabel("IoU")
    ax.set_title(f"mAP in percent, {found.protocol} protocol")
    ax.grid(alpha=0.25)


def _averages(ax: Any, found: Collected, names: list[str]) -> None:
    values = [100 * r.metrics.average_mAP for r in found.results if r.metrics is not None]
    bars = ax.barh(
        range(len(names)), values, 0.7, color=[style.color(i) for i in range(len(names))],
        hatch=[style.hatch(i) for i in range(len(names))], edgecolor="white", linewidth=0,
    )  # fmt: skip
    ax.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, max(values) * 1.15 or 1)
    ax.set_title("average mAP in percent")


def _table(ax: Any, differ: dict[str, list[Any]], names: list[str]) -> None:
    cells = [[style.shown(v, 24) for v in row] for row in differ.values()]
    labels = [style.shown(n, 24) for n in names]
    made = ax.table(
        cells,
        rowLabels=list(differ),
        colLabels=labels,
        loc="center",
        edges="horizontal",
        cellLoc="center",
        colLoc="center",
        rowLoc="left",
    )
    made.auto_set_font_size(False)
    made.set_fontsize(8)
    ax.set_title("what differs")
    ax.set_axis_off()
