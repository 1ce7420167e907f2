"""The head of a training step: activations, λ, foreground and background pooling, λ'."""

from __future__ import annotations

import minimal
import pytest
import torch
import torch.nn.functional as F
import workloads as shapes
from contenders import reference
from harness import Side, steps
from peers import compiled, pooling

import d2kernels as d2k
from d2kernels import backends

OPS = ("attention_pool", "foreground_score", "lowest_attention")


@pytest.mark.parametrize("work", [shapes.FULL, shapes.THUMOS, shapes.ACTIVITYNET, shapes.LARGE], ids=lambda w: w.name)
def test_head(contest, device, full, work):
    if work is shapes.LARGE and device.type == "cpu" and not full:
        pytest.skip("takes 10 s on a CPU; --full runs it")
    x = shapes.normal(work.total, work.embedding, seed=0, dtype=torch.float32, device=device)
    logits = shapes.normal(work.total, work.classes, seed=1, dtype=torch.float32, device=device) - 2
    start = shapes.normal(work.embedding, seed=2, dtype=torch.float32, device=device)
    ragged, mask = work.ragged(x), work.mask(device)

    def ours(x, logits, start):
        attention = logits.sigmoid().amax(1)
        pooled = d2k.attention_pool(ragged.with_values(x), torch.stack([attention, 1 - attention], 1))
        score = d2k.foreground_score(ragged.with_values(x), start).values
        return (*pooled, score, d2k.lowest_attention(ragged.with_values(attention)))

    def padded(x, logits, start):
        attention = logits.sigmoid().amax(2)
        score = (1 - F.cosine_similarity(x, start, dim=-1)) / 2 * mask
        return (*pooling.padded(x, attention, mask), score, pooling.padded_lowest(attention, mask))

    def packed(out):
        return [work.packed(t) if t.shape[:2] == mask.shape else t for t in out]

    inputs = (x, logits, start)
    dense = (work.padded(x), work.padded(logits), start)
    # Which rows are selected is decided in float32; the oracle sees the float32 attention.
    attention = logits.sigmoid().amax(1)

    def exact():
        wide = attention.double()
        pooled = d2k.attention_pool(ragged.with_values(x.double()), torch.stack([wide, (1 - attention).double()], 1))
        score = d2k.foreground_score(ragged.with_values(x.double()), start.double()).values
        return (*pooled, score, d2k.lowest_attention(ragged.with_values(wide)))

    run = steps(ours, inputs)
    names = sorted({backends.select(op, device.type, x.dtype).__name__.rpartition(".")[2] for op in OPS})
    contest(
        op="head",
        work=work.name,
        ours=Side("+".join(names), run),
        peers=[
            Side("torch ops, padded", steps(padded, dense), packed),
            compiled.peer(device, padded, lambda name, f: Side(name, steps(f, dense), packed)),
        ],
        oracle=reference(None, exact),
        reference=reference(None, run),
        cost=minimal.attention_pool(work, 4, False),
    )
