"""How trainings went: losses, gradient norms, skipped steps and selection scores over iterations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from d2net.data.files import DataError
from d2net.plots import style
from d2net.report.runs import RunRecord, thinned

NAMES = {
    "total": "total loss",
    "classification": "classification loss",
    "ds": "L_DS",
    "dv": "L_DV",
    "gradient_norm": "gradient norm",
    "skipped_steps": "steps skipped, since the start",
    "skipped_video_terms": "videos without L_DS, since the start",
    "cls_mAP": "classification mAP, held out",
    "loc_mAP": "localization mAP, held out",
    "snippets_per_second": "snippets a second",
}
COLUMNS, WIDTH, HEIGHT = 3, 12.0, 2.5


def draw_curves(path: Any, runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Saves a picture with a panel for each quantity that a run has logged and a curve in it for each run.

    Raises:
        DataError: no run has logged anything.
    """
    terms = terms_of(runs)
    if not terms:
        raise DataError(f"{runs[0].name}: log.jsonl holds no entry yet; train for train.log_every iterations or more")
    rows = -(-len(terms) // COLUMNS)
    with style.figure(WIDTH, HEIGHT * rows + 0.25 * len(runs) + 0.2) as figure:
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for ax, term in zip(axes, terms, strict=False):
            draw_term(ax, term, runs, names)
        for ax in axes[len(terms) :]:
            ax.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=1 if len(runs) > 4 else len(runs))
        style.save(path, figure)


def terms_of(runs: Sequence[RunRecord]) -> list[str]:
    """What was logged, the known names first and in their order."""
    there = dict.fromkeys(term for run in runs for term in run.curves)
    return [t for t in NAMES if t in there] + [t for t in there if t not in NAMES]


def draw_term(ax: Any, term: str, runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    """One panel. Skipped steps are added up; a value that is not finite is a gap, marked at the top."""
    total = term.startswith("skipped")
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        curve = thinned(run.curves.get(term, []), total)
        at = np.array([step for step, _ in curve], np.int64)
        values = np.array([np.nan if v is None else v for _, v in curve])
        bad = at[np.isnan(values)]
        if total:
            values = np.cumsum(np.nan_to_num(values))
        ax.plot(at, values, label=name, marker="." if len(at) < 3 else "", **style.line(i))
        if len(bad) and not total:
            ax.plot(
                bad, np.ones(len(bad)), "v", transform=ax.get_xaxis_transform(), color=style.color(i), clip_on=False,
                label="_not finite", gid=f"not finite {term}",
            )  # fmt: skip
    every = [v for run in runs for _, v in run.curves.get(term, []) if v is not None]
    if term == "gradient_norm" and every and min(every) > 0 and max(every) > 30 * min(every):
        ax.set_yscale("log")
    if total:
        ax.set_ylim(0, max(1.0, 1.05 * ax.get_ylim()[1]) if every and max(every) > 0 else 1.0)
    ax.set_title(NAMES.get(term, style.shown(term)))
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)
