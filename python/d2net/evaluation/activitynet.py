"""The ActivityNet detection protocol (interpolated AP, as its eval_detection).

Detections of a class over all videos, by falling score (ties in input order), each take the free ground truth
of their video with the largest IoU, if that is >= t (of equal IoUs the first listed); others are false
positives, those in a video that the ground truth does not list included. Precision is replaced by its best
value at this recall or more, and summed over the recall steps. mAP is the mean over the ground truth's
classes; a class that only the detections have is left out.
"""

from __future__ import annotations

from d2net.evaluation.matching import Protocol

ACTIVITYNET = Protocol(
    "activitynet", strict=False, chooser="detection", prefer="best", interpolate=True, union="sum"
)
