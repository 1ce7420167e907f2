"""Detections, and the files that hold them."""

from __future__ import annotations

import os

from d2net.data.detections.activitynet import from_tree
from d2net.data.detections.activitynet import save_detections as save_detections
from d2net.data.detections.columns import from_pickle, from_table
from d2net.data.detections.model import Detections as Detections
from d2net.data.files import check_regular, read_json, reading
from d2net.data.tables import is_table


def load_detections(path: str | os.PathLike) -> Detections:
    """Reads detections in file order; none is valid. By its first bytes, the file is one of

    ActivityNet's results JSON (`results` → video → label, score, segment), a pickle of columns as ActionFormer and
    OpenTAD write (video-id, t-start, t-end, label, score), or a CSV or TSV (video, start, end, label, score).

    Raises:
        DataError: names file, video and row.
    """
    with reading(path, "detections"):
        check_regular(path)
        with open(path, "rb") as file:
            if file.read(1) == b"\x80":
                file.seek(0)
                return from_pickle(path, file)
        if is_table(path, "video"):
            return from_table(path)
        return from_tree(path, read_json(path))
