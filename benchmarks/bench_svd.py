"""svd and svdvals of small matrices against torch.linalg."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps

import d2kernels as d2k
from d2kernels.ops.svd import schema

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


@pytest.mark.parametrize("values", [True, False], ids=["svdvals", "svd"])
@pytest.mark.parametrize("work", list(CASES))
def test_svd_gradient(contest, device, work, values):
    """The way back alone, by the same factors; the vectors' gradients are those of functions that no sign changes."""
    a = shapes.normal(*CASES[work], seed=0, dtype=torch.float64, device=device).requires_grad_()
    batch, m, n = a.shape

    def random(*shape, seed):
        return shapes.normal(*shape, seed=seed, dtype=torch.float64, device=device)

    of_s, left, right = random(batch, min(m, n), seed=1), random(m, m, seed=2), random(n, n, seed=3)
    made = torch.linalg.svd(a, full_matrices=False)
    saved = [x.detach() for x in made]
    given = [None, of_s, None] if values else [left @ saved[0], of_s, saved[2] @ right]
    if values:
        made = (torch.linalg.svdvals(a),)

    def run():
        return schema.svd_backward(*given, *saved)

    def peer():
        return torch.autograd.grad(made, a, [g for g in given if g is not None], retain_graph=True)[0]

    chosen, others = of(OP, device, run, dtype=a.dtype)
    contest(
        op="svdvals" if values else "svd",
        work=work,
        direction="backward",
        dtype="float64",
        ours=chosen,
        peers=[*others, Side("torch.linalg", peer)],
        oracle=reference(OP, run),
        cost=minimal.elements(a.numel(), 8),
    )
