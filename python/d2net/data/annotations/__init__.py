"""Annotations of videos: labels, segments, subsets and durations."""

from __future__ import annotations

from d2net.data.annotations.activitynet import load_annotations as load_annotations
from d2net.data.annotations.model import ROUNDING as ROUNDING
from d2net.data.annotations.model import Annotations as Annotations
from d2net.data.annotations.model import AnnotationWarning as AnnotationWarning
from d2net.data.annotations.model import Segment as Segment
from d2net.data.annotations.model import Video as Video
