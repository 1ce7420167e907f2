"""Rows of results: read from JSON, named, and put in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The machine's facts and the rows of a pytest-benchmark JSON file, or of a GPU check's."""
    tree = json.loads(path.read_text())
    machine = (tree.get("machine_info") or tree.get("machine") or {}).get("d2k", {})
    steps = tree.get("steps", {"all": tree}).values()
    found = [b.get("extra_info", b).get("row") for s in steps for b in s.get("benchmarks", s.get("rows", []))]
    return machine, [row for row in found if row]


def name(row: Row) -> str:
    return f"{row['op']}, {row['work']}, {row['direction']}, {row['dtype']}"


def best(entry: dict[str, Any]) -> float | None:
    """Median seconds, eager or as a graph, whichever is less; None where nothing was timed."""
    times = [entry[key]["median"] for key in ("seconds", "graph_seconds") if key in entry]
    return min(times, default=None)


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def size(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


def times(row: Row) -> str:
    if row["status"] not in ("ok", "yardstick"):
        return row["status"]
    plain, graph = (row[key]["median"] if key in row else None for key in ("seconds", "graph_seconds"))
    return seconds(plain) + (f" ({seconds(graph)} as a graph)" if graph is not None else "")


def ratio(peer: dict[str, Any]) -> str:
    """`2.13× (2.05–2.2)`: how much longer the peer takes; or why there is no figure."""
    if peer["status"] in ("wrong", "failed", "skipped"):
        return peer["status"] if peer["status"] != "skipped" else "–"
    r = peer["ratio"]
    spread = f" ({r['q1']:.2g}–{r['q3']:.2g})" if r.get("rounds", 0) > 1 else ""
    return f"{r['median']:.3g}×{spread}"
