"""Detections out of lists of events: tables, sed_eval's lists, Audacity's label tracks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

import numpy as np

from d2net.data.detections.model import Detections
from d2net.data.events import Event
from d2net.data.files import DataError


class DetectionWarning(UserWarning):
    """Detections that are used although something about them is odd."""


def from_events(path: str | os.PathLike, events: Iterable[Event]) -> Detections:
    """Events with scores; where none has one, as in sed_eval's lists, each score is 1, and it is said.

    Raises:
        DataError: some have a score and others none, or a label has no times; names file and line.
    """
    videos: dict[str, int] = {}
    classes: dict[str, int] = {}
    rows: list[tuple[float, ...]] = []
    scored = unscored = ""
    for event in events:
        v = videos.setdefault(event.video, len(videos))
        if event.start is None:
            if event.label is not None or event.score is not None:
                raise DataError(f"{event.where}: a detection needs start, end, label and score")
            continue
        if event.score is None and event.others:
            raise DataError(f"{event.where}: no column `score` beside {', '.join(event.others)}; name it so")
        if event.score is None:
            unscored = unscored or event.where
        else:
            scored = scored or event.where
        if scored and unscored:
            raise DataError(f"{unscored}: no score, but {scored} has one; give all or none")
        c = classes.setdefault(str(event.label), len(classes))
        rows.append((v, c, event.start, float(event.end or 0.0), 1.0 if event.score is None else event.score))
    if unscored:
        warnings.warn(f"{path}: its detections have no scores; each counts as 1", DetectionWarning, stacklevel=3)
    return Detections.from_arrays(list(videos), tuple(classes), *np.array(rows, np.float64).reshape(-1, 5).T)
