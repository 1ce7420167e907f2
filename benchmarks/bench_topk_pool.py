"""topk_pool with k = ⌈s/8⌉ against torch.topk on the padded batch and np.partition."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import compiled, topk

import d2kernels as d2k

OP = "topk_pool"
WIDE = shapes.Workload("256×6000×100", (6000,) * 256, classes=100)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("work", [*shapes.BATCHES, WIDE], ids=lambda w: w.name)
def test_topk_pool(contest, device, full, work, direction):
    if work is WIDE and device.type == "cpu" and not full:
        pytest.skip("takes a minute on a CPU; --full runs it")
    backward = direction != "forward"
    n, classes = len(work.lengths), work.classes
    # torch.topk gives a tie's whole gradient to one of its rows: nothing to compare there.
    scores = shapes.ranked(work, classes, seed=0, device=device)
    seed = shapes.normal(n, classes, seed=1, dtype=torch.float32, device=device)
    ragged = work.ragged(scores)

    def ours(scores):
        return d2k.topk_pool(ragged.with_values(scores))

    run = steps(ours, [scores], [seed] if backward else None)
    exact = steps(ours, [scores.double()], [seed.double()] if backward else None)
    dense, mask = work.padded(scores), work.mask(device)
    k = torch.tensor([-(-s // 8) for s in work.lengths], device=device)
    most = int(k.max())

    def packed(out):
        return [work.packed(t) if t.dim() == 3 else t for t in out]

    def padded(name, function):
        call = lambda scores: function(scores, mask, k, most)  # noqa: E731
        return Side(name, steps(call, [dense], [seed] if backward else None), packed)

    chosen, others = of(OP, device, run, dtype=scores.dtype)
    peers = [
        *others,
        padded("torch.topk, padded", topk.padded),
        compiled.peer(device, topk.padded, padded),
    ]
    if not backward and device.type == "cpu":
        videos = [x.numpy() for x in scores.split(work.lengths)]
        peers.append(Side("np.partition", lambda: (topk.partition(videos, k.tolist()),)))
    contest(
        op=OP,
        work=work.name,
        direction=direction,
        ours=chosen,
        peers=peers,
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.topk_pool(work.total, classes, n, 4, backward),
    )
