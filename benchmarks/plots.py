"""Plots of benchmark rows, as small SVG files."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import rows as of
from roofline import share
from rows import Row

matplotlib.use("Agg")
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "d2k", "font.size": 8, "axes.spines.right": False}

import matplotlib.pyplot as plt  # noqa: E402


def bars(labels: list[str], values: list[float], title: str, mark: float | None, log: bool) -> Any:
    """Horizontal bars, one a label, from the top; `mark` draws a line at that value."""
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.16 * len(labels)), layout="constrained")
    axes.barh(labels, values, color="#4878a8", log=log)
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    if mark is not None:
        axes.axvline(mark, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    return figure


def _ratios(rows: list[Row]) -> Any:
    found = [
        (f"{of.name(row)} | {p['name']}", p["ratio"]["median"])
        for row in rows
        for p in row["peers"]
        if p["status"] == "ok" and "ratio" in p and row["work"] != "overhead"
    ]
    labels, values = zip(*found, strict=True) if found else ((), ())
    return bars(list(labels), list(values), "peer's time over ours", 1.0, True) if found else None


def _shares(rows: list[Row], machine: dict[str, Any]) -> Any:
    found = [(of.name(row), share(row, machine.get("ceilings", {}))) for row in rows]
    found = [(label, value) for label, value in found if value is not None]
    labels, values = zip(*found, strict=True) if found else ((), ())
    return bars(list(labels), list(values), "share of the machine's limit", 1.0, False) if found else None


def _memory(rows: list[Row]) -> Any:
    found = [(of.name(r), r["peak_memory"] / 1e6) for r in rows if r.get("peak_memory") and r["work"] != "overhead"]
    labels, values = zip(*found, strict=True) if found else ((), ())
    return bars(list(labels), list(values), "peak memory of a call, MB", None, True) if found else None


def _growth(rows: list[Row]) -> Any:
    lines: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["axis"] and (took := of.best(row)) is not None:
            lines[row["axis"][0]][f"{row['op']} ({row['backend']})"].append((row["axis"][1], took))
    if not lines:
        return None
    figure, axes = plt.subplots(1, len(lines), figsize=(3 * len(lines), 2.8), layout="constrained", squeeze=False)
    for one, (axis, of_op) in zip(axes[0], lines.items(), strict=True):
        for op, points in of_op.items():
            one.loglog(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=op)
        one.set_xlabel(axis)
    axes[0][0].set_ylabel("seconds")
    axes[0][0].legend(fontsize=6)
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes an SVG that is the same on every run, and closes the figure."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # Matplotlib ends some lines with a blank, which every later diff would show.
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE))


def draw(rows: list[Row], machine: dict[str, Any], folder: Path) -> list[tuple[str, Path]]:
    """Writes the plots for which there is data; their titles and paths."""
    folder.mkdir(parents=True, exist_ok=True)
    timed = [row for row in rows if not row["axis"] and "seconds" in row]
    figures = {
        "ratio to each peer": _ratios(timed),
        "share of the limit": _shares(timed, machine),
        "cost as the work grows": _growth(rows),
        "peak memory": _memory(timed),
    }
    drawn = []
    for title, figure in figures.items():
        if figure is None:
            continue
        path = folder / f"{title.replace(' ', '_')}.svg"
        save(figure, path)
        drawn.append((title, path))
    return drawn
