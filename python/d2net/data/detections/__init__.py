"""Detections, and the files that hold them."""

from __future__ import annotations

from d2net.data.detections.activitynet import load_detections as load_detections
from d2net.data.detections.activitynet import save_detections as save_detections
from d2net.data.detections.model import Detections as Detections
