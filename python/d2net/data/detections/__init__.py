"""Detections, and the files that hold them."""

from __future__ import annotations

import os
from pathlib import Path

from d2net.data.detections.activitynet import from_tree
from d2net.data.detections.activitynet import save_detections as save_detections
from d2net.data.detections.columns import from_pickle
from d2net.data.detections.events import DetectionWarning as DetectionWarning
from d2net.data.detections.events import from_events
from d2net.data.detections.model import Detections as Detections
from d2net.data.events import is_events, read_events, read_tracks
from d2net.data.files import check_regular, read_json, reading


def load_detections(path: str | os.PathLike) -> Detections:
    """Reads detections in file order; none is valid. By its first bytes, the file is one of

    ActivityNet's results JSON (`results` → video → label, score, segment), a pickle of columns as ActionFormer and
    OpenTAD write (video-id, t-start, t-end, label, score), or a table (video, start, end, label, score, or DCASE's
    names, or none). A folder holds label tracks, <video>.txt, whose labels end in their score, as `run [0.5]`.

    Raises:
        DataError: names file, video and row.
    """
    with reading(path, "detections"):
        if Path(path).is_dir():
            return from_events(path, read_tracks(path))
        check_regular(path)
        with open(path, "rb") as file:
            if file.read(1) == b"\x80":
                file.seek(0)
                return from_pickle(path, file)
        if is_events(path):
            return from_events(path, read_events(path))
        return from_tree(path, read_json(path))
