"""d2net evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import Fps, SnippetSeconds, Stride


def evaluate(
    predictions: Annotated[Path, typer.Option(help="Detections, ActivityNet results JSON.")],
    ground_truth: Annotated[Path, typer.Option(help="ActivityNet-style JSON with segments.")],
    protocol: Annotated[str, typer.Option(help="activitynet, thumos or release.")] = "activitynet",
    iou: Annotated[str, typer.Option(help="start:stop:step, or comma-separated.")] = "0.1:0.7:0.1",
    subset: Annotated[str | None, typer.Option(help="Evaluate against this subset of the ground truth.")] = None,
    ambiguous: Annotated[Path | None, typer.Option(help="THUMOS14's Ambiguous_test.txt.")] = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_seconds: SnippetSeconds = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class's AP.")] = False,
    out: Annotated[Path | None, typer.Option(help="Metrics as JSON.")] = None,
) -> None:
    """Score detections against a ground truth.

    Example: d2net evaluate --predictions detections.json --ground-truth annotations.json --subset test
    """
    from d2net.data.annotations import load_annotations
    from d2net.data.detections import load_detections
    from d2net.data.files import check_outputs
    from d2net.evaluation import evaluate as run
    from d2net.evaluation import load_ambiguous
    from d2net.timing import Timing

    timing = None
    if any(v is not None for v in (fps, stride, snippet_seconds)):
        if protocol != "release":
            raise ValueError(f"--fps, --stride and --snippet-seconds are for --protocol release, not for {protocol}")
        if (fps is None) != (stride is None):
            raise ValueError("--fps and --stride go together")
        timing = Timing(fps=fps, stride=stride, snippet_frames=stride, snippet_seconds=snippet_seconds)
    check_outputs([out], [predictions, ground_truth, ambiguous])
    report = run(
        load_detections(predictions),
        load_annotations(ground_truth),
        protocol=protocol,
        iou=iou,
        subset=subset,
        ambiguous=load_ambiguous(ambiguous) if ambiguous else None,
        timing=timing,
    )
    print(report.table(per_class=per_class))
    if out:
        report.save(out)
        print(f"metrics: {out}")
