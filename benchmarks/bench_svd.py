"""svd and svdvals of small matrices against torch.linalg."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps

import d2kernels as d2k

OP = "svd"
CASES = {"256 of 2×2": (256, 2, 2), "64 of 20×20": (64, 20, 20), "8 of 100×100": (8, 100, 100)}


@pytest.mark.parametrize("values", [True, False], ids=["svdvals", "svd"])
@pytest.mark.parametrize("work", list(CASES))
def test_svd(contest, device, work, values):
    a = shapes.normal(*CASES[work], seed=0, dtype=torch.float64, device=device)

    def product(out):
        return out if values else (out[1], (out[0] * out[1][:, None]) @ out[2])

    def peer(a):
        return torch.linalg.svdvals(a) if values else torch.linalg.svd(a, full_matrices=False)

    run = steps(d2k.svdvals if values else d2k.svd, [a])
    chosen, others = of(OP, device, run, product, dtype=a.dtype)
    contest(
        op="svdvals" if values else "svd",
        work=work,
        dtype="float64",
        ours=chosen,
        peers=[*others, Side("torch.linalg", steps(peer, [a]), product)],
        oracle=reference(OP, lambda: product(run())),
        cost=minimal.elements(a.numel(), 8),
    )
