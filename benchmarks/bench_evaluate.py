"""mAP of a test set's detections at seven IoUs, d2net's evaluator against pandas and Numba ones."""

from __future__ import annotations

import minimal
import numpy as np
import pytest
from harness import Side, Skipped
from peers import evaluate as by

from d2net.evaluation.activitynet import ACTIVITYNET
from d2net.evaluation.matching import Spans, score

VIDEOS, CLASSES, INSTANCES = 210, 20, 3300


def test_set(count: int) -> tuple[by.Table, by.Table]:
    """Ground truth, and detections of which half are near an instance."""
    random = np.random.default_rng(0)
    start = random.random(INSTANCES) * 200
    truth = {
        "video": random.integers(VIDEOS, size=INSTANCES),
        "label": random.integers(CLASSES, size=INSTANCES),
        "start": start,
        "end": start + 1 + random.random(INSTANCES) * 10,
    }
    of = random.integers(INSTANCES, size=count)
    near = random.random(count) < 0.5
    middle = np.where(near, truth["start"][of] + random.normal(size=count), random.random(count) * 200)
    found = {
        "video": truth["video"][of],
        "label": truth["label"][of],
        "start": middle,
        "end": middle + 1 + random.random(count) * 10,
        "score": random.random(count),
    }
    return truth, found


test_set.__test__ = False


@pytest.mark.parametrize("count", [4000, 40_000])
def test_evaluate(contest, device, full, count):
    if device.type != "cpu":
        pytest.skip("evaluation runs on the CPU")
    if count > 10_000 and not full:
        pytest.skip("the pandas evaluator takes minutes; --full runs it")
    truth, found = test_set(count)
    detections = Spans(*(found[n] for n in ("label", "video", "start", "end", "score")))
    instances = Spans(*(truth[n] for n in ("label", "video", "start", "end")))

    def ours():
        return score(detections, instances, classes=CLASSES, iou=by.IOUS.tolist(), protocol=ACTIVITYNET).ap.T

    peers = []
    for name, missing, function in (
        ("pandas", by.pandas_missing, by.pandas_ap),
        ("Numba", by.numba_missing, by.numba_ap),
    ):
        run = lambda function=function: function(truth, found, CLASSES)  # noqa: E731
        peers.append(Skipped(name, missing()) if missing() else Side(name, run))
    # The oracle is the peer that follows ActivityNet's kit row by row.
    contest(
        op="evaluate",
        work=f"{count} detections",
        dtype="float64",
        ours=Side("d2net", ours),
        peers=peers,
        oracle=lambda: by.numba_ap(truth, found, CLASSES),
        cost=minimal.elements(5 * count + 4 * INSTANCES, 8),
        memory=False,
    )
