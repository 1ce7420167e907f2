"""d2net tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import Crops, Device, Features, Quiet, SkipMissing, say
from d2net.cli.reading import Data, Layout


def tune(
    run: Annotated[Path, typer.Argument(help="A run's folder or a checkpoint file.")],
    features: Features,
    annotations: Annotated[Path, typer.Option(help="With segments; ActivityNet-style JSON.")],
    out: Annotated[Path, typer.Option(help="Configuration to write, YAML, for --config of localize and evaluate.")],
    subset: Annotated[
        str | None, typer.Option(help="Annotated videos that were not trained on; those held out by default.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The present decoder, where it is not the run's.")] = None,
    metric: Annotated[str, typer.Option(help="mAP, F1 or class:NAME, averaged over --iou.")] = "mAP",
    iou: Annotated[str | None, typer.Option(help="start:stop:step, or comma-separated; the run's by default.")] = None,
    protocol: Annotated[str | None, typer.Option(help="activitynet, thumos or release; the run's by default.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Field of the annotations that groups videos, such as user: tested on others.")
    ] = None,
    settings: Annotated[int, typer.Option(help="Decoders to try.", min=1)] = 2000,
    folds: Annotated[int, typer.Option(help="Of the cross-fitting.", min=2)] = 5,
    seconds: Annotated[float, typer.Option(help="Ends the search earlier.", min=0)] = float("inf"),
    seed: Annotated[int, typer.Option(help="Of what is tried.", min=0)] = 0,
    device: Device = "auto",
    skip_missing: SkipMissing = False,
    crops: Crops = "mean",
    layout: Layout = None,
    quiet: Quiet = False,
) -> None:
    """Fit the decoder to annotated videos that were not trained on: thousands of settings in a minute.

    Segments are used. The present decoder is kept where the gain, measured on videos that the decoder was not chosen
    on, is not beyond chance.

    Example: d2net tune run --features features.npz --annotations annotations.json --out tuned.yaml
    """
    from d2net import api
    from d2net.data.files import check_outputs
    from d2net.training.folder import run_files

    check_outputs([out], [*run_files(run), features, annotations, config])
    model = api.load(run, device, config=config)
    data = Data(layout, ("features", "annotations"), quiet)
    store, known = data.features(features, crops), data.annotations(annotations)
    found = api.tune(
        model,
        store,
        known,
        names=list(known.subset(subset).videos) if subset else None,
        metric=metric,
        iou=iou,
        protocol=protocol,
        by=by,
        settings=settings,
        folds=folds,
        seed=seed,
        seconds=seconds,
        progress=not quiet,
        skip_missing=skip_missing,
    )
    found.save(out)
    say("\n".join([*found.said(), f"configuration: {out}"]))
