"""The books of a training step in one launch, against the operations that they replace."""

from __future__ import annotations

import minimal
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps

from d2kernels.ops.step_record import step_record
from d2kernels.ops.step_record.reference import step_record_forward

OP = "step_record"
WIDTH = 1024


def test_step_record(contest, device):
    terms = shapes.random(5, seed=0, dtype=torch.float32, device=device).unbind()
    after = shapes.random(WIDTH, seed=1, dtype=torch.float32, device=device)
    kept, sums = torch.zeros(WIDTH, device=device), torch.zeros(7, device=device)
    total, classification, ds, dv, norm = (t.clone() for t in terms)

    def ours(total, after):
        sums.zero_()
        found = step_record((total, classification, ds, dv), norm, None, after, kept, sums)
        return found, kept.clone(), sums.clone()

    def composed(total, after):
        sums.zero_()
        found = step_record_forward(total, classification, ds, dv, norm, None, after, kept, sums)
        return found, kept.clone(), sums.clone()

    run = steps(ours, (total, after))
    chosen, _ = of(OP, device, run, dtype=torch.float32)
    contest(
        op=OP,
        work=f"D={WIDTH}",
        ours=chosen,
        peers=[Side("torch operations", steps(composed, (total, after)))],
        oracle=reference(OP, run),
        reference=reference(OP, run),
        cost=minimal.elements(2 * WIDTH, 4),
    )
