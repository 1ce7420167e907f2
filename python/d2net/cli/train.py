"""d2net train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from d2net.cli.options import (
    Crops,
    Device,
    Features,
    Fps,
    Quiet,
    Resized,
    Set,
    SkipMissing,
    SnippetFrames,
    SnippetSeconds,
    Stride,
    one_voice,
    say,
    stoppable,
    timing_overrides,
)
from d2net.cli.reading import Data, Layout


def train(
    features: Features,
    annotations: Annotated[Path, typer.Option(help="ActivityNet-style JSON; only video-level labels are used.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoint.pt, config.yaml, log.jsonl.")],
    preset: Annotated[
        str | None, typer.Option(help="thumos14, activitynet12 or hapt: what depends on the data; auto: from yours.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="release (the authors' code, default) or paper (its text).")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="What is trained: d2net (default), wtalc, 3cnet or basnet.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of fields, over recipe and preset.")] = None,
    assignments: Set = None,
    streams: Annotated[
        int | None, typer.Option(help="Equal-width streams in the features, such as RGB and flow.")
    ] = None,
    fps: Fps = None,
    stride: Stride = None,
    snippet_frames: SnippetFrames = None,
    snippet_seconds: SnippetSeconds = None,
    resized: Resized = False,
    seed: Annotated[int | None, typer.Option(help="Of weights, batches and crops.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    restarts: Annotated[
        int, typer.Option(help="Trainings of seeds --seed and on; the best by --criterion is the run.", min=1)
    ] = 1,
    average: Annotated[
        bool, typer.Option("--average", help="Of --restarts: use the mean of all runs' activations.")
    ] = False,
    criterion: Annotated[
        str, typer.Option(help="Of --restarts: agreement, contrast, entropy, separation or total_variation.")
    ] = "agreement",
    jobs: Annotated[
        int | None, typer.Option(help="Of --restarts: trainings at a time; as many as cores allow by default.", min=1)
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Also tell tensorboard, trackio or wandb; log.jsonl is always written. Repeatable."),
    ] = None,
    skip_missing: SkipMissing = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Train on pre-extracted features with video-level labels.

    Example: d2net train --features features.npz --annotations annotations.json --preset thumos14 --out run
    """
    from d2net.training.logs import check_trackers

    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    check_trackers(log or ())
    overrides = timing_overrides(fps, stride, snippet_frames, snippet_seconds, resized)
    named = {"model.streams": streams, "train.seed": seed, "method": method}
    overrides |= {k: v for k, v in named.items() if v is not None}
    with one_voice(device), stoppable():
        _train(
            *(features, annotations, out, preset, recipe, config, assignments or [], overrides, layout, crops, quiet),
            device=device,
            resume=resume,
            overwrite=overwrite,
            progress=not quiet,
            skip_missing=skip_missing,
            restarts=restarts,
            average=average,
            criterion=criterion,
            jobs=jobs,
            trackers=log or (),
        )
        print(f"checkpoint: {out if average else out / 'checkpoint.pt'}")  # the file alone is one run of the average


def _train(
    features: Path,
    annotations: Path,
    out: Path,
    preset: str | None,
    recipe: str | None,
    config: Path | None,
    assignments: list[str],
    overrides: dict[str, Any],
    layout: list[str] | None,
    crops: str,
    quiet: bool,
    **given: Any,
) -> None:
    from d2net import api
    from d2net.auto import auto_config, wants_auto
    from d2net.config import make_config, parse_assignments

    overrides = parse_assignments(assignments) | overrides
    auto = wants_auto(preset, overrides, config)
    full = None if auto else make_config(preset, recipe, overrides, config)
    data = Data(layout, ("features", "annotations"), quiet)
    store, known = data.features(features, crops), data.annotations(annotations)
    if full is None:
        full, said = auto_config(store, known, recipe, overrides, config)
        say("\n".join(f"auto: {choice}" for choice in said))
    api.train(store, known, out, full, **given)
