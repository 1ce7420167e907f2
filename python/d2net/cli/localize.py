"""d2net localize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.localize_videos import videos_and_kinds
from d2net.cli.options import (
    Crops,
    Device,
    Fps,
    Quiet,
    Resized,
    Set,
    SkipMissing,
    SnippetFrames,
    SnippetSeconds,
    Stride,
    Weights,
    one_voice,
    timing_overrides,
)
from d2net.cli.reading import Data, Layout


def localize(
    checkpoint: Annotated[Path, typer.Option(help="A run's folder or a checkpoint file.")],
    out: Annotated[Path, typer.Option(help="Detections: .npz or .parquet of columns, else ActivityNet's JSON.")],
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further videos, as a shell makes of --video *.mp4.", show_default=False)
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option(help="A video or a folder of them, in place of features; --features then keeps theirs."),
    ] = None,
    render: Annotated[
        str, typer.Option(help="Of each video also, as srt,mp4: srt, vtt (subtitles), png (picture), mp4 (burnt in).")
    ] = "",
    render_to: Annotated[Path | None, typer.Option(help="Folder of those; beside --out by default.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Of --video, where the model's features do not say: see d2net extract.")
    ] = None,
    weights: Weights = None,
    features: Annotated[Path | None, typer.Option(help="As for train.")] = None,
    activations: Annotated[
        Path | None, typer.Option(help="An .npz of activations (snippets, classes) by video, in place of features.")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="Gives durations, and the subset's videos.")] = None,
    subset: Annotated[str | None, typer.Option(help="Only this subset of the annotations.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or TOML whose fields of localize come before the run's, as of d2net tune.")
    ] = None,
    assignments: Set = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    snippet_seconds: SnippetSeconds = None,
    resized: Resized = False,
    video_info: Annotated[Path | None, typer.Option(help="JSON or CSV of timing and duration per video.")] = None,
    save_activations: Annotated[Path | None, typer.Option(help="Also write the activations, .npz by video.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="At most so many detections of each video and class.")] = None,
    device: Device = "auto",
    skip_missing: SkipMissing = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Find segments in videos, in seconds.

    Stopped or killed, the same command goes on. torchrun --nproc-per-node K -m d2net localize shares the videos among K
    processes and writes the same file.

    Example: d2net localize --checkpoint run --features features.npz --out detections.json
    Or: d2net localize --checkpoint run --video match.mp4 --render srt,mp4 --out found/match.json
    """
    from d2net import api
    from d2net.config import fields_of, make_config, parse_assignments
    from d2net.data.activations import StoredActivations
    from d2net.data.detections import load_detections
    from d2net.data.files import check_outputs
    from d2net.data.video_info import load_video_info
    from d2net.distributed.launch import local_device, refuse
    from d2net.timing import Timing
    from d2net.training.folder import run_files

    if video is not None:
        refuse("localize --video", "start it without torchrun, or extract first and give --features")
    with one_voice("cpu"):
        if video is None and (features is None) == (activations is None):
            raise ValueError("give exactly one of --features and --activations, or --video")
        shown = videos_and_kinds(video, more, render, activations, (backbone, weights, render_to))
        if subset and annotations is None:
            raise ValueError("--subset names a subset of --annotations; give that file too")
        given = features if video is None else None
        inputs = [*run_files(checkpoint), given, activations, annotations, video_info, config, *shown.files]
        check_outputs([out, save_activations], inputs)
        shown.check_rendered(render_to or out.parent)
        model = api.load(checkpoint, local_device(device), config=config)
        decoder = parse_assignments(assignments or [])
        if wrong := [name for name in decoder if not name.startswith("localize.")]:
            raise ValueError(f"--set {wrong[0]}: only fields of localize can be changed after training")
        chosen = make_config(overrides=fields_of(model.config) | decoder).localize if decoder else model.config.localize
        data = Data(layout, ("features", "annotations"), quiet)
        known = data.annotations(annotations) if annotations else None
        if known is not None and subset:
            known = known.subset(subset)
        if shown.files or shown.failed:
            features = shown.extract(model, features, backbone, weights or [], device, quiet)
        store = data.features(features, crops) if features is not None else None
        info = load_video_info(video_info) if video_info else None
        timing = timing_overrides(fps, stride, snippet_frames, snippet_seconds, resized)
        written = api.localize_to(
            out,
            model,
            store if store is not None else StoredActivations(activations, classes=len(model.classes)),
            from_activations=activations is not None,
            annotations=known,
            names=list(known.videos) if known is not None and subset else shown.names,
            timing=Timing(**{k.removeprefix("timing."): v for k, v in timing.items()}) if timing else None,
            durations=info.durations if info else None,
            video_timings=info.timings if info else None,
            config=chosen,
            top=top,
            save_activations=save_activations,
            progress=not quiet,
            skip_missing=skip_missing,
        )
        if store is not None and shown.kinds:
            shown.render(load_detections(out), store.durations, render_to or out.parent, quiet)
        print(f"{written.detections} detections in {written.videos} videos: {out}")
        shown.end()
