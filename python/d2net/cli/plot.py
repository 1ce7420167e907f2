"""d2net plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2net.cli.options import Crops, Device, Quiet, SkipMissing, say
from d2net.cli.reading import Data, Layout
from d2net.cli.report import Protocol, RunAnnotations, RunFeatures, Subset

if TYPE_CHECKING:
    from d2net import api
    from d2net.data.annotations import Annotations
    from d2net.data.features import FeatureStore


def plot(
    runs_and_videos: Annotated[
        list[str],
        typer.Argument(metavar="RUN… [VIDEO…]", help="Folders of runs, then names of videos.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .svg or .pdf.")] = Path("plot.png"),
    embedding: Annotated[
        bool, typer.Option("--embedding", help="In place of timelines: t-SNE of videos' foreground and background.")
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="In place of timelines: losses, gradient norms, skipped steps.")
    ] = False,
    pr: Annotated[bool, typer.Option("--pr", help="In place of timelines: precision, recall and AP by class.")] = False,
    features: RunFeatures = None,
    annotations: RunAnnotations = None,
    subset: Subset = None,
    video: Annotated[
        list[Path] | None, typer.Option(help="A file of a video shown, for thumbnails. Repeatable.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="To show, comma-separated; those that matter by default.")] = None,
    between: Annotated[str | None, typer.Option(help="Seconds to show of a video, as 600:900.", metavar="A:B")] = None,
    protocol: Protocol = None,
    at: Annotated[float, typer.Option(help="IoU that detections are judged at.")] = 0.5,
    config: Annotated[
        Path | None, typer.Option(help="YAML or TOML whose fields of localize come before the runs', as of d2net tune.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of --embedding's t-SNE.", min=0, max=2**32 - 1)] = 0,
    device: Device = "auto",
    skip_missing: SkipMissing = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Draw activations, λ, λ', ground truth and detections over time, several runs one above the other.

    Features and annotations are those that the first run was trained on, where they are still there, or
    --features and --annotations. Without a VIDEO the first one with segments is drawn.

    Examples: d2net plot run baseline video_test_0000004 --out timeline.png; d2net plot run --curves --out curves.svg
    """
    from d2net.plots.style import check_picture

    modes = [name for name, given in (("--embedding", embedding), ("--curves", curves), ("--pr", pr)) if given]
    if len(modes) > 1:
        raise ValueError(f"{' and '.join(modes)} exclude each other; make a picture of each")
    check_picture(out)
    runs, videos = _told_apart(runs_and_videos)
    _check(modes, videos, {"--video": video, "--between": between, "--classes": classes})
    if not 0 < at <= 1:
        raise ValueError(f"--at: an IoU is in (0, 1], got {at}")
    window = _window(between) if between else None
    chosen = [c.strip() for c in classes.split(",") if c.strip()] if classes else []
    sources = _Sources(runs, features, annotations, crops, layout, quiet, out, [config, *(video or [])])
    if curves:
        from d2net.plots.curves import draw_curves
        from d2net.plots.style import short_names
        from d2net.report.runs import read_run

        draw_curves(out, [read_run(run) for run in runs], short_names(runs))
    else:
        if embedding:
            from d2net.plots.embedding import check_scikit

            check_scikit()
        models, store, known = sources.read(device, config)
        if embedding:
            _embedding(out, runs, models, store, known, subset, skip_missing, seed, quiet)
        elif pr:
            _precision_recall(out, runs, models, store, known, subset, protocol, at, chosen, skip_missing, quiet)
        else:
            _timelines(
                out, runs, models, store, known, videos, video or [], subset, protocol, at, chosen, window, quiet
            )
    say(f"picture: {out}")


def _told_apart(given: list[str]) -> tuple[list[Path], list[str]]:
    """(runs, videos): what is on disk, up to the first that is not, is a run."""
    runs: list[Path] = []
    for i, text in enumerate(given):
        if not Path(text).exists():
            if not runs:
                raise ValueError(f"there is no run {text!r}; give a run's folder first, then names of videos")
            return runs, given[i:]
        if any(Path(text).resolve() == run.resolve() for run in runs):
            raise ValueError(f"run {text} is given twice; keep one")
        runs.append(Path(text))
    return runs, []


def _check(modes: list[str], videos: list[str], options: dict[str, Any]) -> None:
    if not modes:
        return
    if videos:
        raise ValueError(f"{modes[0]} is of all videos: leave {videos[0]!r} out, or give a run's folder that is there")
    allowed = {"--classes"} if modes == ["--pr"] else set()
    if wrong := [name for name, value in options.items() if value and name not in allowed]:
        raise ValueError(f"{wrong[0]} does nothing with {modes[0]}; leave it out")


def _window(text: str) -> tuple[float, float]:
    from d2net.ranges import decimal

    parts = text.split(":")
    try:
        a, b = (decimal(p) for p in parts)
    except ValueError as error:
        raise ValueError(f"--between must be two numbers of seconds, as 600:900, got {text!r}") from error
    if not 0 <= a < b < float("inf"):
        raise ValueError(f"--between must begin before it ends and not below 0, got {text!r}")
    return a, b


@dataclass
class _Sources:
    """Where the data come from: what is given, else what the first run was trained on."""

    runs: list[Path]
    features: Path | None
    annotations: Path | None
    crops: str
    layout: list[str] | None
    quiet: bool
    out: Path
    inputs: list[Path | None]

    def __post_init__(self) -> None:
        from d2net.data.files import check_outputs
        from d2net.training.folder import run_files

        files = [file for run in self.runs for file in run_files(run)]
        check_outputs([self.out], [*files, self.features, self.annotations, *self.inputs])

    def read(self, device: str, config: Path | None) -> tuple[list[api.Model], FeatureStore, Annotations | None]:
        from d2net import api
        from d2net.data.files import check_outputs
        from d2net.report.runs import trained_on

        models = [api.load(run, device, config=config) for run in self.runs]
        known = trained_on(self.runs[0]) if self.features is None else None
        if self.features is None:
            if known is None:
                raise ValueError(
                    f"{self.runs[0]} does not say what it was trained on, or that is gone; give --features"
                )
            self.features, self.crops = known.features, known.crops
            self.annotations = self.annotations or known.annotations
        check_outputs([self.out], [self.features, self.annotations])
        data = Data(self.layout, ("features", "annotations"), self.quiet)
        store = data.features(self.features, self.crops)
        if known is not None:
            known.check(store)
        return models, store, data.annotations(self.annotations) if self.annotations else None


def _truth(known: Annotations | None, models: list[api.Model], subset: str | None, what: str) -> Annotations:
    """The annotated videos of the subset, by default the one that the first run localizes."""
    if known is None:
        raise ValueError(f"{what} needs segments: give --annotations")
    return known.subset([subset] if subset else models[0].config.localize.subsets)


def _embedding(
    out: Path,
    runs: list[Path],
    models: list[api.Model],
    store: FeatureStore,
    known: Annotations | None,
    subset: str | None,
    skip_missing: bool,
    seed: int,
    quiet: bool,
) -> None:
    from d2net.plots.embedding import draw_embedding, video_means
    from d2net.plots.style import short_names

    truth = _truth(known, models, subset, "--embedding")
    means = [video_means(m, store, truth, skip_missing=skip_missing, progress=not quiet) for m in models]
    draw_embedding(out, short_names(runs), means, seed)


def _precision_recall(
    out: Path,
    runs: list[Path],
    models: list[api.Model],
    store: FeatureStore,
    known: Annotations | None,
    subset: str | None,
    protocol: str | None,
    at: float,
    classes: list[str],
    skip_missing: bool,
    quiet: bool,
) -> None:
    from d2net.plots.precision_recall import class_curves, draw_precision_recall
    from d2net.plots.style import short_names
    from d2net.report.results import results

    truth = _truth(known, models, subset, "--pr")
    rules = protocol or models[0].config.evaluate.protocol
    found = []
    for model in models:
        of = results(
            model, store, truth, protocol=rules, iou=at, at=at, skip_missing=skip_missing, progress=not quiet,
            details=False,
        )  # fmt: skip
        found.append(class_curves(of, truth.only(of.steps), rules, at))
    draw_precision_recall(out, short_names(runs), found, at, rules, classes)


def _timelines(
    out: Path,
    runs: list[Path],
    models: list[api.Model],
    store: FeatureStore,
    known: Annotations | None,
    videos: list[str],
    files: list[Path],
    subset: str | None,
    protocol: str | None,
    at: float,
    classes: list[str],
    window: tuple[float, float] | None,
    quiet: bool,
) -> None:
    from d2net.api.inputs import named_as
    from d2net.plots.choosing import chosen_videos
    from d2net.plots.shown import files_of, find, timelines, with_thumbnails
    from d2net.plots.style import short_names
    from d2net.plots.timeline import draw_timelines

    if known is not None:
        known = named_as(known, store)[0]
    if videos:
        names = chosen_videos(videos, store.names, store.source)
    else:
        names = [_first(store, known, subset or "", models[0])]
        say(f"video: {names[0]}, the first with segments; name others behind the runs")
    by_file = files_of(files, names)
    rules = protocol or models[0].config.evaluate.protocol
    found = find(models, store, known, names, protocol=rules, at=at, progress=not quiet)
    durations = dict(store.durations)
    if known is not None:
        durations |= {v: x.duration for v, x in known.videos.items() if x.duration is not None}
    drawn = timelines(
        short_names(runs), found, known, durations, names, at=at, classes=classes, between=window
    )  # fmt: skip
    drawn = [with_thumbnails(t, by_file[t.video]) if t.video in by_file else t for t in drawn]
    draw_timelines(out, drawn)


def _first(store: FeatureStore, known: Annotations | None, subset: str, model: api.Model) -> str:
    """A video to show where none is named: of the subset, with features and segments where there are such."""
    if known is None:
        return str(store.names[0])
    try:
        pool = known.subset([subset] if subset else model.config.localize.subsets).videos
    except ValueError:
        if subset:
            raise
        pool = known.videos  # the data have no subset of the run's
    there = [v for v in pool if v in store] or list(store.names)
    return next((v for v in there if v in pool and pool[v].segments), there[0])
