"""lowest_attention against argmin on the padded batch."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side
from peers import pooling

import d2kernels as d2k

OP = "lowest_attention"


@pytest.mark.parametrize("work", [*shapes.BATCHES[:2], shapes.LARGE], ids=lambda w: w.name)
def test_lowest_attention(contest, device, work):
    attention = shapes.random(work.total, seed=0, dtype=torch.float32, device=device)
    ragged, dense, mask = work.ragged(attention), work.padded(attention), work.mask(device)
    chosen, others = of(OP, device, lambda: d2k.lowest_attention(ragged), dtype=attention.dtype)
    exact = work.ragged(attention.double())
    contest(
        op=OP,
        work=work.name,
        ours=chosen,
        peers=[*others, Side("argmin, padded", lambda: pooling.padded_lowest(dense, mask))],
        oracle=reference(OP, lambda: d2k.lowest_attention(exact)),
        cost=minimal.elements(work.total, 4),
    )
