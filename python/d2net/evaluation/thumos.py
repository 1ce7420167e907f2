"""The THUMOS'14 detection protocol, as the evaluation kit's TH14evalDet_Updated.m (non-interpolated AP).

Per class and video, each ground truth in file order takes the free detection with the largest IoU, if that is
> t (strictly; of equal IoUs the higher score): the ground truth chooses, so that of two overlapping
detections the better placed one is the true positive, whatever their scores. An unmatched detection that
overlaps an Ambiguous segment of its video at all is ignored, a matched one counts. AP is the mean over the
instances of the precision at each true positive, by falling score; equal scores go by video name, then input
order, as the kit visits the videos sorted.

The kit's first release (TH14evaldet.m) differs in one point: it averages the best precision at 11 recall
levels.
"""

from __future__ import annotations

from d2net.evaluation.matching import Protocol

THUMOS = Protocol("thumos", strict=True, chooser="truth", prefer="best", interpolate=False, ties="video")
