"""The fused objective, forward and backward, against the composition of small ops that it replaces."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import objective

from d2kernels.ops.losses import losses
from d2net.config import make_config
from d2net.methods.d2net.losses.options import loss_options

OP = "losses"
WORK = [
    pytest.param(shapes.THUMOS, "release", id="THUMOS"),
    pytest.param(shapes.THUMOS, "paper", id="THUMOS-paper"),
    pytest.param(shapes.HAPT, "release", id="HAPT"),
    pytest.param(shapes.ACTIVITYNET, "release", id="ActivityNet"),
]


@pytest.mark.parametrize(("work", "recipe"), WORK)
def test_losses(contest, device, work, recipe):
    n, classes = len(work.lengths), work.classes

    def draw(*shape, seed):
        return shapes.random(*shape, seed=seed, dtype=torch.float32, device=device)

    options = loss_options(make_config(None, recipe).loss, True, (n, classes))
    p, embedding = draw(n, classes, seed=0), draw(n, 2, work.embedding, seed=1)
    on, off, score = (draw(work.total, seed=s) for s in (2, 3, 4))
    labels = torch.eye(classes, dtype=torch.bool, device=device)[torch.arange(n) % classes]
    rows = work.ragged(on)
    mass, keys = torch.ones(n, 2, device=device), draw(4, n, seed=5)
    iteration = torch.tensor(1102, device=device)

    def ours(p, embedding, on, off):
        return losses(
            p, embedding, mass.to(p), labels, options, iteration=iteration, offsets=rows.offsets, lengths=rows.lengths,
            foreground_attention=on, background_attention=off, foreground=score.to(p), pairs_drawn=keys,
        )  # fmt: skip

    def composed(p, embedding, on, off):
        return objective.losses(
            p, embedding, on, off, mass=mass, score=score, labels=labels, keys=keys, rows=rows, options=options
        )

    inputs, seeds = (p, embedding, on, off), [torch.ones((), device=device)] * 4
    run = steps(ours, inputs, seeds)
    exact = steps(ours, [x.double() for x in inputs], [s.double() for s in seeds])
    chosen, _ = of(OP, device, run, dtype=p.dtype)
    contest(
        op=OP,
        work=f"{work.name}, {recipe}",
        direction="forward+backward",
        ours=chosen,
        peers=[Side("composition of small ops", steps(composed, inputs, seeds))],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.elements(3 * work.total + 2 * n * work.embedding, 4, True),
    )
