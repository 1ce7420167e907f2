"""How time grows: with all snippets, with the number of videos, and with the classes."""

from __future__ import annotations

import pytest
import torch
import workloads as shapes
from contenders import of, reference

import d2kernels as d2k
from d2kernels import backends

TOTALS = (100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)
VIDEOS = (1, 4, 16, 64, 256, 1024)
CLASSES = (20, 50, 100, 200, 500, 1000)
LEVELS = [0.2, 0.4, 0.6, 0.8]
SWEEPS = [
    *(("snippets", t, t, max(1, t // 1000), 2) for t in TOTALS),
    *(("videos", n, 200 * n, n, 20) for n in VIDEOS),
    *(("classes", c, 2000, 10, c) for c in CLASSES),
]
QUICK = 1_000_000  # scores


def batch(total: int, n: int, classes: int, device: torch.device) -> d2k.Ragged:
    scores = shapes.smooth_activations(total, classes).to(device)
    offsets = torch.linspace(0, total, n + 1).long().to(device)
    return d2k.Ragged(scores, offsets, max_length=int(offsets.diff().max()))


CALLS = {
    "topk_pool": lambda x: d2k.topk_pool(x),
    "connected_components": lambda x: torch.stack(list(d2k.connected_components(x, LEVELS))),
    "localize": lambda x: d2k.localize(x, thresholds=LEVELS, iou_threshold=0.5)[:4],
    "attention_pool": lambda x: tuple(d2k.attention_pool(x, x.values[:, 0])),
}


@pytest.mark.parametrize(("axis", "size", "total", "n", "classes"), SWEEPS)
@pytest.mark.parametrize("op", list(CALLS))
def test_scaling(contest, device, full, op, axis, size, total, n, classes):
    slow = backends.select(op, device.type, torch.float32).__name__.endswith("reference") and device.type == "cpu"
    if not full and total * classes > (QUICK // 10 if slow else QUICK):
        pytest.skip("--full runs the larger sizes")
    x = batch(total, n, classes, device)
    run = lambda: CALLS[op](x)  # noqa: E731
    chosen, _ = of(op, device, run, dtype=x.values.dtype)
    wide = op in ("topk_pool", "attention_pool")
    exact = (lambda: CALLS[op](x.with_values(x.values.double()))) if wide else run
    with torch.no_grad():
        contest(
            op=op,
            work=f"{axis}={size}",
            ours=chosen,
            oracle=reference(op, exact),
            reference=reference(op, run),
            axis=(axis, size),
        )
