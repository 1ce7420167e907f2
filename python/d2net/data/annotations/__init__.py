"""Annotations of videos: labels, segments, subsets and durations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from d2net.data.annotations.activitynet import from_tree
from d2net.data.annotations.model import ROUNDING as ROUNDING
from d2net.data.annotations.model import Annotations as Annotations
from d2net.data.annotations.model import AnnotationWarning as AnnotationWarning
from d2net.data.annotations.model import Segment as Segment
from d2net.data.annotations.model import Video as Video
from d2net.data.annotations.wtalc import is_wtalc, wtalc_tree
from d2net.data.files import DataError, read_json, reading


def load_annotations(path: str | os.PathLike, *, classes: Sequence[str] | None = None) -> Annotations:
    """Reads ActivityNet JSON (`database` → subset, duration_second, annotations), also BaS-Net's and ActionFormer's.

    Of a folder: W-TALC's arrays, in the order of its videoname.npy. Video-level labels are `video_labels` and the
    labels of the annotations, so weak-only files work.

    Args:
        classes: the class list; the file's `classes`, else the sorted labels found, by default.

    Raises:
        DataError: not JSON, no `database`, a label outside the class list, a segment that is not two finite
            numbers or ends before it starts; names file, video and value.
    """
    with reading(path, "ActivityNet's annotation JSON, or W-TALC's folder"):
        folder = Path(path)
        if folder.is_dir():
            if not is_wtalc(folder):
                raise DataError(f"{path} is a folder without videoname.npy; give a JSON, or W-TALC's annotation folder")
            return from_tree(path, wtalc_tree(folder), classes)
        return from_tree(path, read_json(path), classes)
