"""pdmi_snippet against a loop over sequences, pdmi_video against torch.linalg; both recipes' shapes."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import linalg

import d2kernels as d2k

OP = "pdmi"


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("n", [10, 256])
def test_pdmi_snippet(contest, device, n, direction):
    backward = direction != "forward"
    work = shapes.Workload(f"snippet, n={n}", tuple(shapes.thumos_lengths(n, shapes.CROP)))
    attention = shapes.random(work.total, seed=0, dtype=torch.float32, device=device)
    foreground = shapes.random(work.total, seed=1, dtype=torch.float32, device=device)
    seed = shapes.normal(n, seed=2, dtype=torch.float32, device=device)
    ragged = work.ragged(attention)

    def ours(attention):
        return d2k.pdmi_snippet(ragged.with_values(attention), foreground.to(attention.dtype)).value

    def loop(attention):
        return linalg.pdmi_snippet_loop(attention.split(work.lengths), foreground.split(work.lengths))

    run = steps(ours, [attention], [seed] if backward else None)
    exact = steps(ours, [attention.double()], [seed.double()] if backward else None)
    chosen, others = of(OP, device, run, dtype=attention.dtype)
    # Products of single-precision means lose log η: the peer is run in float64, as its users must.
    wide = steps(loop, [attention.double()], [seed.double()] if backward else None)
    contest(
        op="pdmi_snippet",
        work=work.name,
        direction=direction,
        ours=chosen,
        peers=[*others, Side("loop of torch.linalg.svdvals", wide, note="float64")],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.elements(2 * work.total, 4, backward),
    )


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize(("n", "classes"), [(10, 20), (10, 100), (256, 20), (256, 100)])
def test_pdmi_video(contest, device, n, classes, direction):
    backward = direction != "forward"
    p = shapes.random(n, classes, seed=0, dtype=torch.float32, device=device)
    labels = torch.zeros(n, classes, dtype=torch.bool, device=device)
    labels[torch.arange(n), torch.arange(n) % classes] = True
    seeds = [torch.ones((), device=device)] if backward else None

    def ours(p):
        return d2k.pdmi_video(p, labels, rtol=1e-10).value

    def plain(p):
        joint = p.double().t() @ labels.double() / n
        return linalg.log_condition(joint[None], 1e-10)[0].to(p.dtype)

    run = steps(ours, [p], seeds)
    exact = steps(ours, [p.double()], [torch.ones((), dtype=torch.float64, device=device)] if backward else None)
    chosen, others = of(OP, device, run, dtype=p.dtype)
    contest(
        op="pdmi_video",
        work=f"video, n={n} C={classes}",
        direction=direction,
        ours=chosen,
        peers=[*others, Side("torch.linalg.svdvals", steps(plain, [p], seeds), note="float64 inside")],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.elements(n * classes, 4, backward),
    )
