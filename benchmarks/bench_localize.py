"""localize of THUMOS14's test set by the release decoder: thresholds, components, scores, NMS, keep."""

from __future__ import annotations

import minimal
import numpy as np
import pytest
import workloads as shapes
from contenders import of, reference
from harness import Side
from peers import localize as by

import d2kernels as d2k

OP = "localize"


def columns(found: d2k.Detections | tuple) -> tuple[np.ndarray, ...]:
    if isinstance(found, tuple) and not hasattr(found, "count"):
        return found
    return by.as_columns(
        list(zip(*(getattr(found, n).tolist() for n in ("sequence", "label", "start", "end", "score")), strict=True))
    )


@pytest.mark.parametrize(("videos", "chosen"), [(210, 20), (210, 2)], ids=["every class", "two classes a video"])
def test_localize(contest, device, full, videos, chosen):
    if not full and device.type == "cpu":
        videos = 21
    work = shapes.Workload(f"{videos} videos, {chosen} classes", tuple(shapes.thumos_lengths(videos)))
    scores = shapes.smooth_activations(work.total, work.classes)
    mask = shapes.class_mask(videos, work.classes, chosen)
    ragged, there = work.ragged(scores.to(device)), mask.to(device)

    def ours():
        return d2k.localize(ragged, class_mask=there, **by.SETTINGS)

    backend, others = of(OP, device, ours, columns, dtype=scores.dtype)
    lists, wanted = [x.numpy() for x in scores.split(work.lengths)], mask.numpy()
    peers = [*others, Side("careful NumPy", lambda: by.numpy_localize(lists, wanted))]
    if device.type == "cpu":  # half a minute a call, which a GPU machine has better uses for
        peers.append(Side("Python sets", lambda: by.set_localize(lists, wanted)))
    contest(
        op=OP,
        work=work.name,
        ours=backend,
        peers=peers,
        oracle=reference(OP, lambda: columns(ours())),
        cost=minimal.elements(work.total * work.classes, 4),
        memory=False,
    )
