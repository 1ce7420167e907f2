"""condition_number (log) against torch.linalg.svdvals: 2 × 2 joints, and C × C products of rank at most n."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, Skipped, steps
from peers import linalg

import d2kernels as d2k

OP = "condition_number"
RTOL = 1e-10
# name: batch, rows and columns, rank
CASES = {"256 of 2×2": (256, 2, 2), "64 of 20×20, rank 10": (64, 20, 10), "8 of 100×100, rank 20": (8, 100, 20)}


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("work", list(CASES))
def test_condition_number(contest, device, work, direction):
    batch, size, rank = CASES[work]
    backward = direction != "forward"
    a = shapes.random(batch, size, rank, seed=0, dtype=torch.float64, device=device)
    b = shapes.random(batch, rank, size, seed=1, dtype=torch.float64, device=device)
    factored = rank < size
    inputs = (a, b) if factored else (a,)
    seeds = [shapes.normal(batch, seed=2, dtype=torch.float64, device=device)] if backward else None
    run = steps(lambda *m: d2k.condition_number(*m, rtol=RTOL, log=True), inputs, seeds)
    joined = lambda *m: m[0] @ m[1] if factored else m[0]  # noqa: E731
    chosen, others = of(OP, device, run, dtype=a.dtype)
    why = "CuPy's SVD has no gradient" if backward else linalg.cupy_missing()
    contest(
        op=OP,
        work=work,
        direction=direction,
        # log η cancels digits: what a peer that squares or rounds once more loses is allowed, not a wrong rank.
        dtype="float32",
        ours=chosen,
        peers=[
            *others,
            Side("torch.linalg.svdvals", steps(lambda *m: linalg.log_condition(joined(*m), RTOL), inputs, seeds)),
            Skipped("cupy.linalg.svd", why)
            if why
            else Side("cupy.linalg.svd", lambda: (linalg.cupy_log_condition(joined(*inputs), RTOL),)),
        ],
        oracle=reference(OP, run),
        cost=minimal.elements(sum(m.numel() for m in inputs), 8, backward),
    )
