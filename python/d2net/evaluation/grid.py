"""One set of detections against every ground truth by every protocol: published numbers mix both."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d2net.data.annotations import Annotations
from d2net.data.detections import Detections
from d2net.data.files import write_text
from d2net.evaluation.ambiguous import Ambiguous
from d2net.evaluation.prepared import PROTOCOLS
from d2net.evaluation.release import Rate
from d2net.evaluation.report import Report, evaluate
from d2net.terminal import Bar, printable
from d2net.timing import Timing

if TYPE_CHECKING:
    from d2net.distributed.ranks import Ranks


@dataclass(frozen=True)
class Grid:
    """Reports by ground truth, in the order given, then protocol."""

    reports: list[Report]

    def to_dict(self) -> dict[str, Any]:
        """{"grid": [report, ...]}, ready for JSON."""
        return {"grid": [r.to_dict() for r in self.reports]}

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict` as JSON in one step."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))

    def table(self) -> str:
        """mAP in percent, a line for each ground truth and protocol."""
        sources = [r.ground_truth for r in self.reports]
        width = max(len(s) for s in sources)
        iou = self.reports[0].iou
        head = f"{'ground truth':<{width}} {'instances':>9} {'protocol':<12}"
        lines = [head + "".join(f"{t:>7g}" for t in iou) + f"{'mean':>8}"]
        for r in self.reports:
            cells = "".join(f"{100 * v:>7.2f}" for v in r.mAP)
            lines.append(
                f"{r.ground_truth:<{width}} {r.n_instances:>9} {r.protocol:<12}{cells}{100 * r.average_mAP:>8.2f}"
            )
        said = dict.fromkeys(f"{r.ground_truth}: {w}" for r in self.reports for w in r.warnings)
        return "\n".join(map(printable, [*lines, *(f"warning: {w}" for w in said)]))


def evaluate_all(
    detections: Detections,
    ground_truths: Sequence[Annotations],
    *,
    protocols: Sequence[str] = tuple(PROTOCOLS),
    iou: str | float | Sequence[float] = "0.1:0.7:0.1",
    ambiguous: Ambiguous | None = None,
    subset: str | None = None,
    timing: Timing | Rate | None = None,
    proposals: int | None = 100,
    progress: bool = False,
    ranks: Ranks | None = None,
) -> Grid:
    """`evaluate` for each ground truth and protocol.

    ambiguous segments and timing are for the protocols that have them; progress shows a bar; the rest as `evaluate`.
    """
    if not ground_truths or not protocols:
        raise ValueError("evaluate_all: give at least one ground truth and one protocol")
    cells = [(truth, protocol) for truth in ground_truths for protocol in protocols]
    return Grid(
        [
            evaluate(
                detections,
                truth,
                protocol=protocol,
                iou=iou,
                ambiguous=None if protocol == "activitynet" else ambiguous,
                subset=subset,
                timing=timing if protocol == "release" else None,
                proposals=proposals,
                ranks=ranks,
            )
            for truth, protocol in Bar("evaluate", len(cells), unit="table", show=progress).over(cells)
        ]
    )
