"""d2net evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2net.cli.optional_value import PRINTED
from d2net.cli.options import Fps, Quiet, SnippetSeconds, Stride, say, together
from d2net.cli.reading import Data, Layout

if TYPE_CHECKING:
    from d2net.sections import TimingConfig
    from d2net.timing import Timing


def evaluate(
    predictions: Annotated[
        Path, typer.Option(help="Detections: ActivityNet results JSON, a pickle of columns, or a CSV or TSV.")
    ],
    ground_truth: Annotated[
        list[Path], typer.Option(help="ActivityNet-style JSON with segments. Repeatable with --all-protocols.")
    ],
    protocol: Annotated[str | None, typer.Option(help="activitynet (also by default), thumos or release.")] = None,
    all_protocols: Annotated[
        bool, typer.Option("--all-protocols", help="Every protocol against every ground truth, as a grid.")
    ] = False,
    iou: Annotated[
        str | None, typer.Option(help="start:stop:step, or comma-separated; 0.1:0.7:0.1 by default.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML whose section evaluate has the defaults.")] = None,
    subset: Annotated[str | None, typer.Option(help="Evaluate against this subset of the ground truth.")] = None,
    ambiguous: Annotated[Path | None, typer.Option(help="THUMOS14's Ambiguous_test.txt.")] = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_seconds: SnippetSeconds = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class's AP.")] = False,
    errors: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Which errors there are and what each kind costs (Alwassel et al. 2018): printed, and JSON in FILE.",
        ),
    ] = None,
    buckets: Annotated[str, typer.Option(help="Of --errors, activitynet or thumos14: what is short, or rare.")] = (
        "activitynet"
    ),
    events: Annotated[
        bool, typer.Option("--events", help="Also segment-based and event-based F1, as for sound events.")
    ] = False,
    min_score: Annotated[float | None, typer.Option(help="Of --events: detections of a lower score do not count.")] = (
        None
    ),
    resolution: Annotated[float, typer.Option(help="Of --events: seconds of a segment.")] = 1.0,
    collar: Annotated[float, typer.Option(help="Of --events: seconds that onsets and offsets may be off.")] = 0.2,
    length_share: Annotated[
        float, typer.Option(help="Of --events: share of an event's length that its offset may be off.")
    ] = 0.5,
    onset_only: Annotated[bool, typer.Option("--onset-only", help="Of --events: offsets do not count.")] = False,
    layout: Layout = None,
    out: Annotated[Path | None, typer.Option(help="Metrics as JSON.")] = None,
    quiet: Quiet = False,
) -> None:
    """Score detections against a ground truth.

    torchrun --nproc-per-node K -m d2net evaluate shares the detections among K processes and writes the same bytes.

    Example: d2net evaluate --predictions detections.json --ground-truth annotations.json --subset test
    """
    from d2net.config import load_config
    from d2net.data.detections.share import Part
    from d2net.data.files import check_outputs
    from d2net.evaluation import analyse_errors, evaluate_all, event_scores, load_ambiguous
    from d2net.evaluation import evaluate as run
    from d2net.terminal import Bar

    with together() as ranks:
        if protocol is not None and all_protocols:
            raise ValueError(f"--protocol {protocol} and --all-protocols exclude each other")
        if (min_score is not None or onset_only) and not events:
            raise ValueError("--min-score and --onset-only are of --events; add it, or leave them out")
        thresholds: Any = iou
        if config is not None:
            settings = load_config(config).evaluate
            protocol, thresholds = protocol or settings.protocol, settings.iou if iou is None else iou
        protocol, thresholds = protocol or "activitynet", "0.1:0.7:0.1" if thresholds is None else thresholds
        timing = _timing(fps, stride, snippet_seconds, protocol, all_protocols)
        if timing is None and config is not None and (protocol == "release" or all_protocols):
            timing = _of_file(load_config(config).timing)
        if len(ground_truth) > 1 and not all_protocols:
            raise ValueError("several --ground-truth make a grid; add --all-protocols, or give one")
        wanted = ranks is None or ranks.main
        errors_file = None if errors in (None, PRINTED) else errors
        check_outputs([out, errors_file], [predictions, *ground_truth, ambiguous, config])
        data = Data(layout, ("detections", "annotations"), quiet)
        found = data.detections(predictions, Part(ranks.rank, ranks.size) if ranks and ranks.size > 1 else None)
        truths = [data.annotations(path, "ground truth") for path in ground_truth]
        given: dict[str, Any] = {"iou": thresholds, "subset": subset, "timing": timing, "ranks": ranks}
        given["ambiguous"] = load_ambiguous(ambiguous) if ambiguous else None
        if all_protocols:
            if errors is not None or events:
                raise ValueError(
                    "--errors and --events are of one protocol and ground truth; leave --all-protocols out"
                )
            grid = evaluate_all(found, truths, **given, progress=not quiet)
            print(grid.table())
            if out and wanted:
                grid.save(out)
                print(f"metrics: {out}")
            return
        of_events = analysis = None
        with Bar("evaluate", 1 + events + (errors is not None), show=not quiet) as bar:
            bar.begin("metrics")
            report = run(found, truths[0], protocol=protocol, **given)
            if events:
                bar.begin("events")
                of_events = event_scores(
                    found, truths[0], subset=subset, min_score=min_score, resolution=resolution, collar=collar,
                    length_share=length_share, onset_only=onset_only, ranks=ranks,
                )  # fmt: skip
            if errors is not None:
                bar.begin("errors")
                analysis = analyse_errors(found, truths[0], protocol=protocol, buckets=buckets, **given)
        print(report.table(per_class=per_class))
        more: dict[str, Any] = {}
        if of_events is not None:
            say(of_events.table(per_class=per_class))
            more["events"] = of_events.to_dict()
        if analysis is not None:
            print(analysis.table(per_class=per_class))
            more["errors"] = analysis.to_dict()
            if errors_file and wanted:
                analysis.save(errors_file)
                print(f"errors: {errors_file}")
        if out and wanted:
            report.save(out, more)
            print(f"metrics: {out}")


def _timing(
    fps: float | None, stride: float | None, snippet_seconds: float | None, protocol: str, all_protocols: bool
) -> Timing | None:
    from d2net.timing import Timing

    if all(v is None for v in (fps, stride, snippet_seconds)):
        return None
    if protocol != "release" and not all_protocols:
        raise ValueError(f"--fps, --stride and --snippet-seconds are for --protocol release, not for {protocol}")
    if (fps is None) != (stride is None):
        raise ValueError("--fps and --stride go together")
    return Timing(fps=fps, stride=stride, snippet_frames=stride, snippet_seconds=snippet_seconds)


def _of_file(stated: TimingConfig) -> Timing | None:
    """What the configuration says of the release protocol's snippets."""
    from d2net.timing import Timing

    if stated.snippet_seconds:
        return Timing(snippet_seconds=stated.snippet_seconds)
    if stated.fps and stated.stride:
        return Timing(fps=stated.fps, stride=stated.stride, snippet_frames=stated.stride)
    return None
