"""The trainer's Adam against torch's, bit for bit."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from d2net.training.adam import FusedAdam


def both():
    torch.manual_seed(0)
    weights = [[torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), ())] for _ in range(2)]
    for ours, theirs in zip(*weights, strict=True):
        theirs.data.copy_(ours.data)
    ours = FusedAdam(weights[0], 1e-2, 0.1)
    return weights, ours, torch.optim.Adam(weights[1], lr=1e-2, weight_decay=0.1, fused=True)


def step(weights, ours, theirs, leave=0.0, missing=None):
    for i, (a, b) in enumerate(zip(*weights, strict=True)):
        a.grad = None if i == missing else torch.randn_like(a)
        b.grad = None if i == missing else a.grad.clone()
    theirs.found_inf = torch.tensor(leave)
    ours.update(torch.tensor(leave))
    theirs.step()


def check(weights, ours, theirs):
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    mine, other = ours.state_dict(), theirs.state_dict()
    assert {k: v for k, v in mine["param_groups"][0].items()} == other["param_groups"][0]
    assert mine["state"].keys() == other["state"].keys()
    for i, moments in mine["state"].items():
        assert all(torch.equal(x, other["state"][i][name]) for name, x in moments.items())


def test_every_update_is_torchs():
    problem = both()
    for leave in (0.0, 0.0, 1.0, 0.0):
        step(*problem, leave)
        check(*problem)
    for optimizer in problem[1:]:
        optimizer.param_groups[0]["lr"] = 1e-3
    step(*problem)
    check(*problem)


@pytest.mark.parametrize("first", [True, False])
def test_a_parameter_without_a_gradient_stays(first):
    problem = both()
    if not first:
        step(*problem)
    kept = problem[0][0][1].clone()
    step(*problem, missing=1)
    assert torch.equal(kept, problem[0][0][1])
    check(*problem)
    step(*problem)
    check(*problem)


def test_a_state_that_is_loaded_is_the_one_that_moves():
    weights, ours, theirs = both()
    step(weights, ours, theirs)
    step(weights, ours, theirs)
    saved = copy.deepcopy(theirs.state_dict())
    step(weights, ours, theirs)
    ours.load_state_dict(copy.deepcopy(saved))
    theirs.load_state_dict(copy.deepcopy(saved))
    step(weights, ours, theirs)
    check(weights, ours, theirs)


def test_training_leaves_torchs_compiler_alone():
    """Two seconds of every process; torch.optim imports it in the first call of most of its methods."""
    code = """
import sys, torch
from d2net.training.adam import FusedAdam
weight = torch.nn.Parameter(torch.ones(3))
for _ in range(2):
    optimizer = FusedAdam([weight], 0.1, 0.0)
    weight.grad = torch.ones(3)
    optimizer.update(torch.tensor(0.0))
    optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules, "torch._dynamo"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
