"""The head of a training step: activations, λ, foreground and background pooling, λ'; forward and backward."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import compiled, objective

from d2kernels.ops.head import head, reference_score

OP = "head"
WORK = [shapes.FULL, shapes.THUMOS, shapes.ACTIVITYNET, shapes.HAPT, shapes.LARGE]


@pytest.mark.parametrize("work", WORK, ids=lambda w: w.name)
def test_head(contest, device, full, work):
    if work is shapes.LARGE and device.type == "cpu" and not full:
        pytest.skip("takes 10 s on a CPU; --full runs it")
    n, streams, classes = len(work.lengths), work.groups, work.classes
    z = shapes.normal(work.total, work.width, seed=0, dtype=torch.float32, device=device)
    # Attention keeps away from its thresholds, where rounding would decide what the oracle compares.
    logits = shapes.normal(work.total, streams * classes, seed=1, dtype=torch.float32, device=device).div_(8) - 0.7
    logits[::3] += 1.5
    start = shapes.normal(work.embedding, seed=2, dtype=torch.float32, device=device)
    labels = torch.eye(classes, dtype=torch.bool, device=device)[torch.arange(n, device=device) % classes]
    ragged = work.ragged(z)

    def ours(z, logits):
        rows = ragged.with_values(z)
        out = head(rows, logits, streams=streams, labels=labels, inclusive=True, normalize=True)
        kept = start.to(out.mass), out.lowest, out.mass, labels
        _, score = reference_score(rows.with_values(z.detach()), *kept, streams=streams, momentum=1.0)
        return *out[:4], out.mass, score

    def composed(z, logits):
        rows = ragged.with_values(z)
        return objective.head(z, logits, streams=streams, labels=labels, start=start.to(z), rows=rows)

    seeds = [
        shapes.normal(*shape, seed=3 + i, dtype=torch.float32, device=device)
        for i, shape in enumerate(((work.total, classes), (work.total,), (work.total,), (n, 2, work.embedding)))
    ]
    inputs = (z, logits)
    run = steps(_whole(ours), inputs, seeds)
    chosen, _ = of(OP, device, run, dtype=z.dtype)
    contest(
        op=OP,
        work=work.name,
        direction="forward+backward",
        ours=chosen,
        peers=[
            Side("composition of small ops", steps(_whole(composed), inputs, seeds)),
            compiled.peer(device, _whole(composed), lambda name, f: Side(name, steps(f, inputs, seeds))),
        ],
        oracle=reference(None, steps(_whole(ours), [x.double() for x in inputs], [s.double() for s in seeds])),
        reference=reference(None, run),
        cost=minimal.attention_pool(work, 4, True),
    )


def _whole(call):
    """The outputs that have gradients; what has none is made too."""
    return lambda *inputs: call(*inputs)[:4]
