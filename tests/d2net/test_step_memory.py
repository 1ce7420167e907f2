"""The most memory that a training step holds: every allocation of torch's is counted, those inside ops included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import workloads as shapes
from torch.profiler import ProfilerActivity, profile

import d2kernels as d2k
from d2kernels.ops.temporal_conv import products
from d2net.config import make_config
from d2net.data.batch import pack
from d2net.methods.d2net import method
from d2net.training.state import new_state
from d2net.training.step import train_step

pytestmark = pytest.mark.skipif(not d2k.backends.can_run("head", "native"), reason="no compiled extension")
FLOAT = 4
SHORTER = [max(8, s // 4) for s in shapes.THUMOS.lengths]  # as unequal as THUMOS14's, in a quarter of the time
SHAPES = {"hapt": (shapes.HAPT.lengths, 128, 12), "thumos14": (SHORTER, 1024, 20)}


def allocations(run):
    """Bytes of each of torch's allocations on the CPU, negative where it ends, in their order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]


def test_the_count_sees_what_is_inside_an_operation():
    x = torch.zeros(1000, 100)
    made = allocations(lambda: torch.sort(x, 0))
    assert max(np.cumsum(made)) >= x.numel() * (4 + 8)  # values and indices
    assert max(np.cumsum([0, *allocations(lambda: x.add_(1))])) < 1000


def peak(preset, recipe, iteration, precision="fp32"):
    """Bytes that a step holds at its peak, those that it must, its largest tensor's, and the most that one may have."""
    lengths, width, classes = SHAPES[preset]
    config = make_config(preset, recipe, overrides={"train.precision": precision})
    random = np.random.default_rng(0)
    labels = np.eye(classes, dtype=bool)[np.arange(len(lengths)) % classes]
    arrays = [random.standard_normal((s, width)).astype(np.float32) for s in lengths]
    batch = pack(arrays, labels, config.model.gap)
    low = precision == "bf16"
    if low:
        batch = batch._replace(features=batch.features.bfloat16())  # as the loader makes them
    state = new_state(config, width, 2, classes, torch.device("cpu"))
    state.iteration = iteration - 2
    train_step(state, batch, config)  # the optimiser makes its moments
    for weight in state.parameters:
        weight.grad = None
    made = allocations(lambda: train_step(state, batch, config))
    rows, weights = len(batch.features), FLOAT * sum(p.numel() for p in state.parameters)
    activation, logits = batch.features.nbytes, FLOAT * rows * 2 * classes
    there = activation + 3 * weights  # inputs, weights, moments
    must = there + weights + 2 * activation + logits + 2 * rows * width // 8 + 2 * activation
    must += weights // 2 if low else 0  # the weights in bfloat16
    most = max(activation, FLOAT * max(p.numel() for p in state.parameters))
    return there + max(np.cumsum(made)), must, max(made), most


@pytest.mark.parametrize("iteration", [7, 2000], ids=["before L_D", "with L_D"])
@pytest.mark.parametrize("preset", SHAPES)
@pytest.mark.parametrize("recipe", ["release", "paper"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_holds_what_it_must(preset, recipe, iteration, precision, monkeypatch):
    """Inputs, weights, their gradients and moments, one activation and one sign bit an element of each layer, and two
    gradients of an activation; a tenth more. No tensor is larger than an activation or a weight: nothing is padded."""
    monkeypatch.setattr(method, "objective_at_once", lambda *_: None)
    held, must, largest, most = peak(preset, recipe, iteration, precision)
    assert held <= 1.1 * must
    assert largest <= 1.01 * most


@pytest.mark.skipif(not products.available(), reason="no products of our own here")
@pytest.mark.parametrize("iteration", [7, 2000], ids=["before L_D", "with L_D"])
@pytest.mark.parametrize("preset", SHAPES)
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_an_objective_at_once_holds_what_it_must(preset, recipe, iteration):
    """The same, in one workspace."""
    held, must, largest, most = peak(preset, recipe, iteration)
    assert 2 * most < largest  # it was taken
    assert held <= 1.1 * must
