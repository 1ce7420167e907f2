"""nms of many videos' proposals, one group a video and class."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, Skipped
from peers import nms as by

import d2kernels as d2k

OP = "nms"
THRESHOLD = 0.5


@pytest.mark.parametrize(("count", "groups"), [(1000, 1), (20_000, 400)])
def test_nms(contest, device, full, count, groups):
    if count > 10_000 and not full and device.type == "cpu":
        pytest.skip("the peers take minutes on a CPU; --full runs it")
    start = (shapes.random(count, seed=0, dtype=torch.float64, device=device) * 700).floor()
    width = (shapes.random(count, seed=1, dtype=torch.float64, device=device) * 60).floor() + 1
    segments = torch.stack([start, start + width], 1)
    scores = shapes.random(count, seed=2, dtype=torch.float64, device=device)
    group = torch.arange(count, device=device) % groups

    def ours():
        return d2k.nms(segments, scores, THRESHOLD, group, inclusive=False)

    chosen, others = of(OP, device, ours, dtype=segments.dtype)
    plain = [t.cpu().numpy() for t in (segments, scores, group)]
    peers = [*others, Side("Numba", lambda: by.numba_nms(plain[0], plain[1], THRESHOLD, plain[2]))]
    if device.type == "cpu":
        peers.append(Side("Python sets", lambda: by.set_nms(plain[0], plain[1], THRESHOLD, plain[2])))
    if reason := by.torchvision_missing():
        peers.append(Skipped("torchvision batched_nms", reason))
    else:
        run = lambda: by.torchvision_nms(segments, scores, THRESHOLD, group)  # noqa: E731
        peers.append(Side("torchvision batched_nms", run))
    contest(
        op=OP,
        work=f"{count} in {groups}",
        dtype="float64",
        ours=chosen,
        peers=peers,
        oracle=reference(OP, ours),
        cost=minimal.elements(4 * count, 8),
    )
