"""Detections of many videos, written to a file by one process or several."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.api.inputs import Features
from d2net.api.localizing import Localization, localization
from d2net.api.model import Model
from d2net.data.activations import join_activations
from d2net.data.annotations import Annotations
from d2net.data.detections.results import check_kind, write_parts
from d2net.data.features import FeatureStore
from d2net.distributed.processes import processes
from d2net.localization.parts import Parts, shares
from d2net.sections import LocalizeConfig
from d2net.terminal import Bar
from d2net.timing import Timing
from d2net.training.resume import environment

_SAMPLE = 64  # files of the features whose size and time are compared


class Written(NamedTuple):
    """How many detections are in the file, in how many videos."""

    detections: int
    videos: int


def localize_to(
    out: str | os.PathLike,
    model: Model,
    features: Features,
    *,
    from_activations: bool = False,
    annotations: Annotations | None = None,
    names: Sequence[str] | None = None,
    timing: Timing | None = None,
    durations: Mapping[str, float] | None = None,
    video_timings: Mapping[str, Timing] | None = None,
    config: LocalizeConfig | None = None,
    top: int | None = None,
    save_activations: str | os.PathLike | None = None,
    progress: bool = False,
    skip_missing: bool = False,
) -> Written:
    """As `localize`, into a file, in memory that does not grow with the number of videos' snippets or detections.

    What is done lies in a hidden folder beside `out` until all is: the same call goes on after it, and starts again
    where the model, the features' files or an argument differ. Processes that torchrun starts share the videos, by
    length, and the first of them writes the file: the same bytes, however many there are.

    Args:
        out: `.npz` and `.parquet` (by pyarrow) hold columns, all else ActivityNet's results JSON.
        model, features, from_activations, annotations, names, timing, durations, video_timings, config, top: as
            `localize`.
        save_activations: an .npz for T and λ' of every video.
        progress, skip_missing: as `localize`.

    Returns:
        how many detections are in the file, and in how many videos.

    Raises:
        FolderInUse: another run makes the same file.
        UnknownTiming, DataError: as `localize`.
    """
    check_kind(out)
    work = localization(
        model, features, from_activations=from_activations, annotations=annotations, names=names, timing=timing,
        durations=durations, video_timings=video_timings, config=config, top=top,
        keep_activations=save_activations is not None, skip_missing=skip_missing,
    )  # fmt: skip
    sizes = [sum(work.videos.lengths[own]) for own in work.slices]
    parts = Parts(Path(out), len(sizes), _key(work, features), save_activations is not None)
    with processes() as group:
        if group.rank == 0 and (kept := parts.begin()) and progress:
            print(f"{kept} of {len(sizes)} parts were done by an earlier run", file=sys.stderr)
        try:
            group.wait()
            parts.check_shared()
            done = parts.done()
            own = shares(sizes, group.count)[group.rank]
            total = sum(work.slices[i].stop - work.slices[i].start for i in own)
            with Bar("localize", total, unit="video", show=progress and group.rank == 0) as bar:
                for i in own:
                    if i not in done:
                        part = work.part(i)
                        parts.save(i, part.detections, part.activations)
                    bar.update(work.slices[i].stop - work.slices[i].start)
            group.wait()
            rows = 0
            if group.rank == 0:
                if save_activations is not None:
                    join_activations(save_activations, parts.activation_files())
                rows = write_parts(out, work.names, model.classes, parts.detections())
        except BaseException:
            if group.rank == 0:
                parts.remove(empty=True)
            raise
        group.wait()
        if group.rank == 0:
            parts.remove()
    return Written(rows, len(work.names))


def _key(work: Localization, features: Features) -> dict[str, Any]:
    """What decides the parts."""
    model, videos = work.model, work.videos
    weights = hashlib.blake2b(digest_size=16)
    for x in model.network.state_dict().values():
        weights.update(np.ascontiguousarray(x.detach().cpu().numpy()).data)
    steps = [(*videos.steps(i), videos.durations.get(v)) for i, v in enumerate(work.names)]
    loss = model.config.loss
    return {
        "weights": weights.hexdigest(),
        "classes": model.classes,
        "decoder": work.config.model_dump(),
        "pool": [loss.pool_divisor, loss.pool_rounding],
        "precision": model.config.train.precision,
        "top": work.top,
        "videos": hashlib.blake2b(
            repr((work.names, list(videos.lengths), steps)).encode("utf-8", "surrogatepass"), digest_size=16
        ).hexdigest(),
        "environment": {**environment(next(model.network.parameters()).device, 0), "threads": ""},  # no matter here
        "features": _state(features),
    }


def _state(features: Features) -> Any:
    """What tells whether the features' files have changed; nothing does of arrays in memory."""
    files: Sequence[Path] = []
    if isinstance(features, FeatureStore):
        files = features.sources()
    elif isinstance(features, (str, os.PathLike)):
        files = [Path(features)]
    elif (path := getattr(features, "path", None)) is not None:
        files = [Path(path)]
    if not files:
        return os.urandom(16).hex()
    chosen = [files[i] for i in dict.fromkeys(np.linspace(0, len(files) - 1, min(_SAMPLE, len(files))).astype(int))]
    crops = getattr(features, "crops", None)
    return [len(files), crops, [[str(p.absolute()), p.stat().st_mtime_ns, p.stat().st_size] for p in chosen]]
