"""Runs side by side, for a terminal or a program."""

from __future__ import annotations

from typing import Any

from d2net.report.collect import Collected
from d2net.terminal import printable


def comparison(found: Collected) -> dict[str, Any]:
    """What differs, the last entry of each curve, and the metrics, ready for JSON."""
    return {
        "runs": [run.name for run in found.runs],
        "differences": found.differences(),
        "log": [{name: curve[-1][1] for name, curve in run.curves.items()} for run in found.runs],
        "iterations": [max((c[-1][0] for c in run.curves.values()), default=0) for run in found.runs],
        "protocol": found.protocol if found.results else None,
        "metrics": [r.metrics.to_dict() if r.metrics else None for r in found.results],
        "seeds": found.seeds(),
    }


def table(found: Collected) -> str:
    """A row for each quantity, a column for each run; mean ± standard deviation of seeds below."""
    tree = comparison(found)
    rows = [("", [f"[{i + 1}]" for i in range(len(found.runs))])]
    rows += [(name, [_short(v) for v in values]) for name, values in tree["differences"].items()]
    rows.append(("iterations", [str(n) for n in tree["iterations"]]))
    terms = dict.fromkeys(name for entry in tree["log"] for name in entry if name != "snippets_per_second")
    rows += [(f"last {name}", [_number(entry.get(name), 4) for entry in tree["log"]]) for name in terms]
    measured = [r.metrics for r in found.results if r.metrics]
    if measured and len(measured) == len(found.runs):
        for k, t in enumerate(measured[0].iou):
            rows.append((f"mAP % at IoU {t:g}", [f"{100 * m.mAP[k]:.2f}" for m in measured]))
        rows.append(("average mAP %", [f"{100 * m.average_mAP:.2f}" for m in measured]))
    width = max(len(name) for name, _ in rows)
    cells = [max(len(values[i]) for _, values in rows) for i in range(len(found.runs))]
    lines = [f"[{i + 1}] {run.name}" for i, run in enumerate(found.runs)]
    lines += [
        f"{name:<{width}}  " + "  ".join(f"{v:>{w}}" for v, w in zip(values, cells, strict=True))
        for name, values in rows
    ]
    for group in tree["seeds"]:
        of = ", ".join(f"[{i + 1}]" for i in group["runs"])
        mean, spread = 100 * group["mean"][-1], 100 * group["deviation"][-1]
        lines.append(f"average mAP % over seeds {of}: {mean:.2f} ± {spread:.2f}")
    return "\n".join(map(printable, lines))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
