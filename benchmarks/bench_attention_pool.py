"""attention_pool of foreground (λ > 0.5) and background (1 - λ > 0.5) from one read of the embeddings."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import compiled, pooling

import d2kernels as d2k

OP = "attention_pool"


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("work", [*shapes.BATCHES[:2], shapes.LARGE], ids=lambda w: w.name)
def test_attention_pool(contest, device, full, work, direction):
    if work is shapes.LARGE and device.type == "cpu" and not full:
        pytest.skip("takes 10 s on a CPU; --full runs it")
    backward = direction != "forward"
    n, width = len(work.lengths), work.embedding
    x = shapes.normal(work.total, width, seed=0, dtype=torch.float32, device=device)
    attention = shapes.random(work.total, seed=1, dtype=torch.float32, device=device)
    seeds = [shapes.normal(n, 2, *s, seed=2, dtype=torch.float32, device=device) for s in ((width,), ())]
    ragged, mask, lengths = work.ragged(x), work.mask(device), torch.tensor(work.lengths, device=device)

    def ours(x, attention):
        both = torch.stack([attention, 1 - attention], 1)
        return d2k.attention_pool(ragged.with_values(x), both)

    def seeded(dtype):
        return [s.to(dtype) for s in seeds] if backward else None

    run = steps(ours, (x, attention), seeded(torch.float32))
    # λ > 0.5 is decided on the float32 values, for every side.
    exact = steps(ours, (x.double(), attention.double()), seeded(torch.float64))
    dense = (work.padded(x), work.padded(attention))

    def packed(out):
        return [work.packed(t) if t.shape[:2] == mask.shape else t for t in out]

    def padded(name, function):
        return Side(name, steps(lambda x, a: function(x, a, mask), dense, seeded(torch.float32)), packed)

    def ragged_peer(name, call):
        return Side(name, steps(call, (x, attention), seeded(torch.float32)))

    chosen, others = of(OP, device, run, dtype=x.dtype)
    offsets = work.offsets(device)
    contest(
        op=OP,
        work=work.name,
        direction=direction,
        ours=chosen,
        peers=[
            *others,
            padded("torch.bmm, padded", pooling.padded),
            compiled.peer(device, pooling.padded, padded),
            ragged_peer("torch.segment_reduce", lambda x, a: pooling.segment_reduce(x, a, lengths)),
            ragged_peer("torch.nested, jagged", lambda x, a: pooling.nested(x, a, offsets)),
        ],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.attention_pool(work, 4, backward),
    )
