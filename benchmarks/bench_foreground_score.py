"""foreground_score against F.cosine_similarity on the padded batch."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import compiled, pooling

import d2kernels as d2k

OP = "foreground_score"


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("work", [*shapes.BATCHES[:2], shapes.LARGE], ids=lambda w: w.name)
def test_foreground_score(contest, device, full, work, direction):
    if work is shapes.LARGE and device.type == "cpu" and not full:
        pytest.skip("takes 10 s on a CPU; --full runs it")
    backward = direction != "forward"
    x = shapes.normal(work.total, work.embedding, seed=0, dtype=torch.float32, device=device)
    start = shapes.normal(work.embedding, seed=1, dtype=torch.float32, device=device)
    seed = shapes.normal(work.total, seed=2, dtype=torch.float32, device=device)
    ragged, mask = work.ragged(x), work.mask(device)

    def ours(x, start):
        return d2k.foreground_score(ragged.with_values(x), start).values

    run = steps(ours, (x, start), [seed] if backward else None)
    exact = steps(ours, (x.double(), start.double()), [seed.double()] if backward else None)
    dense_seed = [work.padded(seed)] if backward else None

    def packed(out):
        return [work.packed(t) if t.shape[:2] == mask.shape else t for t in out]

    def padded(name, function):
        return Side(name, steps(lambda x, r: function(x, mask, r), (work.padded(x), start), dense_seed), packed)

    chosen, others = of(OP, device, run, dtype=x.dtype)
    padded_one = pooling.padded_foreground
    contest(
        op=OP,
        work=work.name,
        direction=direction,
        ours=chosen,
        peers=[
            *others,
            padded("F.cosine_similarity, padded", padded_one),
            compiled.peer(device, padded_one, padded),
        ],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.foreground_score(work, 4, backward),
    )
