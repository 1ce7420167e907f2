"""d2net report and d2net compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2net.cli.options import Crops, Device, Quiet, SkipMissing, say
from d2net.cli.reading import Data, Layout

if TYPE_CHECKING:
    from d2net.report.collect import Collected
    from d2net.report.runs import Sources

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)]
RunFeatures = Annotated[Path | None, typer.Option(help="Of the videos to show; with --annotations.")]
RunAnnotations = Annotated[Path | None, typer.Option(help="Of the videos to show; with segments for metrics.")]
Subset = Annotated[str | None, typer.Option(help="Of the annotations; the first run's localize.subsets by default.")]
Protocol = Annotated[str | None, typer.Option(help="activitynet, thumos or release; the first run's by default.")]
Iou = Annotated[str | None, typer.Option(help="start:stop:step, or comma-separated; the first run's by default.")]


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("report.html"),
    features: RunFeatures = None,
    annotations: RunAnnotations = None,
    subset: Subset = None,
    protocol: Protocol = None,
    iou: Iou = None,
    at: Annotated[float, typer.Option(help="IoU that single detections and videos are judged at.")] = 0.5,
    device: Device = "auto",
    skip_missing: SkipMissing = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about runs: settings, curves, metrics, errors, and every video's timeline.

    It opens in any browser and needs no network. Metrics and timelines are of --features and --annotations, else of
    what the first run was trained on, where that is still there.

    Example: d2net report run other --out report.html
    """
    from d2net.report.page import write_report
    from d2net.report.runs import trained_on

    given = {"subset": subset, "protocol": protocol, "iou": iou, "at": at, "device": device}
    known = None
    if features is None and annotations is None:
        known = trained_on(runs[0])
    if known:
        features, annotations, crops = known.features, known.annotations, known.crops
    found = _collect(runs, features, annotations, [out], given, crops, layout, skip_missing, quiet, known)
    write_report(out, found)
    if not found.results:
        say("no --features and --annotations, and what the run was trained on is gone: no metrics and no videos")
    say(f"report: {out}; open it in a browser")


def compare(
    runs: Runs,
    features: RunFeatures = None,
    annotations: RunAnnotations = None,
    subset: Subset = None,
    protocol: Protocol = None,
    iou: Iou = None,
    out: Annotated[Path | None, typer.Option(help="The same as JSON, or as a picture: .png, .svg, .pdf.")] = None,
    device: Device = "auto",
    skip_missing: SkipMissing = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Print runs side by side: which settings differ, how training ended, and with data the metrics.

    Example: d2net compare run other --features features.npz --annotations annotations.json
    """
    import json

    from d2net.data.files import write_text
    from d2net.plots.style import check_picture, is_picture
    from d2net.report.compare import comparison, table

    if drawn := out is not None and is_picture(out):
        check_picture(out)
    given = {"subset": subset, "protocol": protocol, "iou": iou, "device": device, "details": False}
    found = _collect(runs, features, annotations, [out], given, crops, layout, skip_missing, quiet)
    print(table(found))
    if out:
        if drawn:
            from d2net.plots.comparison import draw_comparison

            draw_comparison(out, found)
        else:
            write_text(out, json.dumps(comparison(found), indent=1))
        say(f"comparison: {out}")


def _collect(
    runs: list[Path],
    features: Path | None,
    annotations: Path | None,
    outputs: list[Path | None],
    given: dict[str, Any],
    crops: str,
    layout: list[str] | None,
    skip_missing: bool,
    quiet: bool,
    trained: Sources | None = None,
) -> Collected:
    from d2net.data.files import check_outputs
    from d2net.report.collect import collect
    from d2net.training.folder import run_files

    if (features is None) != (annotations is None):
        raise ValueError("--features and --annotations go together; give both or neither")
    inputs = [file for run in runs for file in run_files(run)]
    check_outputs(outputs, [*inputs, features, annotations])
    data = Data(layout, ("features", "annotations"), quiet)
    given["subset"] = [given["subset"]] if given["subset"] else None
    store = data.features(features, crops) if features else None
    if store is not None and trained is not None:
        trained.check(store)
    known = data.annotations(annotations) if annotations else None
    return collect(runs, store, known, skip_missing=skip_missing, progress=not quiet, **given)
