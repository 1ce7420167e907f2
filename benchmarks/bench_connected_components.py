"""connected_components of THUMOS14's test set, every class, 20 thresholds."""

from __future__ import annotations

import minimal
import numpy as np
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, Skipped
from peers import labels, linalg

import d2kernels as d2k

OP = "connected_components"
THRESHOLDS = np.arange(1, 21, dtype=np.float32) / 40


def test_connected_components(contest, device):
    work = shapes.Workload("THUMOS test set", tuple(shapes.thumos_lengths(210)))
    scores = shapes.smooth_activations(work.total, work.classes).to(device)
    levels = torch.from_numpy(THRESHOLDS).to(device)
    ragged = work.ragged(scores)

    def ours(distinct=False):
        return torch.stack(list(d2k.connected_components(ragged, levels, distinct=distinct)), 1)

    def order(rows):
        rows = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
        return rows[np.lexsort(rows.T[::-1])].astype(np.int64)

    chosen, others = of(OP, device, ours, order, dtype=scores.dtype)
    videos = [x.cpu().numpy() for x in scores.split(work.lengths)]
    peers = [*others, Side("np.diff", lambda: labels.numpy_runs(videos, THRESHOLDS), order)]
    if reason := labels.scipy_missing():
        peers.append(Skipped("scipy.ndimage.label", reason))
    else:
        from scipy import ndimage

        run = lambda: labels.ndimage_runs(videos, THRESHOLDS, np, ndimage.label)  # noqa: E731
        peers.append(Side("scipy.ndimage.label", run, order))
    if reason := linalg.cupy_missing():
        peers.append(Skipped("cupyx.scipy.ndimage.label", reason))
    else:
        import cupy
        from cupyx.scipy import ndimage as on_gpu

        there, cut = [cupy.asarray(v) for v in videos], cupy.asarray(THRESHOLDS)
        run = lambda: labels.ndimage_runs(there, cut, cupy, on_gpu.label)  # noqa: E731
        peers.append(Side("cupyx.scipy.ndimage.label", run, lambda rows: order(rows.get())))
    contest(
        op=OP,
        work=work.name,
        ours=chosen,
        peers=peers,
        oracle=reference(OP, lambda: order(ours())),
        cost=minimal.elements(work.total * work.classes, 4),
    )
