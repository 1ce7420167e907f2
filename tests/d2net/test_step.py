"""What a training step is made of: how many operations, of which kind, and the same bits on every run."""

from __future__ import annotations

import gc
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import d2kernels as d2k
from d2kernels.ops.temporal_conv import products
from d2net.config import make_config
from d2net.data.batch import pack
from d2net.methods.d2net import method
from d2net.training.state import new_state
from d2net.training.step import train_step

native_only = pytest.mark.skipif(not d2k.backends.can_run("head", "native"), reason="no compiled extension")
MOST = 60
# Copies and work by rows that the fused operations have made unnecessary, and what waits for a device.
UNWANTED = ("index_put", "repeat_interleave", "masked_fill", "nonzero", "foreach_mul", "gather", "scatter")


class Dispatched(TorchDispatchMode):
    """Counts the operations that reach a device, by name."""

    def __init__(self):
        super().__init__()
        self.names, self.double = Counter(), []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        self.names[str(op)] += 1
        made = out if isinstance(out, (tuple, list)) else (out,)
        self.double += [str(op) for x in made if isinstance(x, torch.Tensor) and x.dtype == torch.float64]
        return out


def prepared(preset, recipe="release", **overrides):
    config = make_config(preset, recipe, overrides)
    random = np.random.default_rng(0)
    width, classes, n = (64, 12, 20) if preset == "hapt" else (128, 20, 10)
    labels = np.eye(classes, dtype=bool)[np.arange(n) % classes]
    arrays = [random.standard_normal((s, width)).astype(np.float32) for s in random.integers(8, 60, n)]
    reach = config.model.dilation * (config.model.kernel_size // 2)
    reach = max(reach, config.model.classifier_dilation * (config.model.classifier_kernel_size // 2))
    batch = pack(arrays, labels, reach)
    state = new_state(config, width, 2, classes, torch.device("cpu"))
    with torch.no_grad():
        state.network.classifier.weight.mul_(30)
    return state, batch, config


@native_only
@pytest.mark.parametrize("iteration", [7, 2000], ids=["before L_D", "with L_D"])
@pytest.mark.parametrize("recipe", ["release", "paper"])
@pytest.mark.parametrize("preset", ["hapt", "thumos14", "activitynet12"])
def test_a_step_is_few_operations(preset, recipe, iteration):
    state, batch, config = prepared(preset, recipe)
    state.iteration = iteration - 2
    train_step(state, batch, config)  # the optimiser makes its moments
    with Dispatched() as seen:
        train_step(state, batch, config)
    assert seen.names.total() <= MOST, dict(seen.names)
    assert not [name for name in seen.names for word in UNWANTED if word in name and "count_nonzero" not in name]
    assert not [name for name in seen.double if not name.startswith("d2k")]


@native_only
@pytest.mark.parametrize(("at_once", "most"), [(True, 400), (False, 1030)])
def test_a_step_is_few_calls_of_python(at_once, most, monkeypatch):
    """Their cost apart, the small kernels of narrow features wait for all: 2 158 in 0.2.0, 358 and 960 by now."""
    if not at_once:
        monkeypatch.setattr(method, "objective_at_once", lambda *_: None)
    elif not products.available():
        pytest.skip("no products of our own here")
    state, batch, config = prepared("hapt")
    state.iteration = 1997
    for _ in range(2):
        train_step(state, batch, config)
    calls = Counter()
    gc.collect()
    gc.disable()  # other tests' garbage would be finalized, and counted, here or there
    sys.setprofile(lambda frame, event, _: calls.update([event]))
    try:
        train_step(state, batch, config)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert calls["call"] + calls["c_call"] <= most, calls


@native_only
@pytest.mark.parametrize("iteration", [8, 2001], ids=["before L_D", "with L_D"])
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_what_a_graph_captures_reads_nothing_back(recipe, iteration, monkeypatch):
    """No value goes to the host or comes from it, and the counter moves by an operation, so that replays go on."""
    state, batch, config = prepared("thumos14", recipe)
    state.iteration = iteration - 2
    train_step(state, batch, config)
    # The layout's check reads the host's copy, which a batch on a device has none of.
    monkeypatch.setattr(d2k.ragged, "_values_can_be_checked", lambda *tensors: False)
    with Dispatched() as seen:
        train_step(state, batch, config)
    waits = ("local_scalar_dense", "lift_fresh", "_to_copy", "nonzero", "equal.default", "fill_", "scalar_tensor")
    assert not [name for name in seen.names for word in waits if word in name]
    assert seen.names["aten.add_.Tensor"] == 1  # the clock


@native_only
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_a_step_equals_the_composition(recipe):
    """The fused step against the references of all ops: gradients within rounding."""
    grads = []
    for backend in ("native", "reference"):
        state, batch, config = prepared("thumos14", recipe, **{"model.dropout": 0.0})
        state.iteration = 1999
        state.network.reference.normal_(generator=torch.Generator().manual_seed(1))
        state.generator.manual_seed(3)
        with d2k.backends.use(backend, "head"), d2k.backends.use(backend, "losses"):
            train_step(state, batch, config)
        grads.append([p.grad for p in state.network.parameters()] + [state.network.reference, state.sums])
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@native_only
def test_same_bits_on_every_run():
    def run():
        state, batch, config = prepared("hapt")
        state.iteration = 1998
        for _ in range(3):
            train_step(state, batch, config)
        return [*state.network.parameters(), state.network.reference, state.sums]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_the_clock_follows_the_iteration():
    state, batch, config = prepared("hapt")
    for start in (0, 5, 1999, 2):
        state.iteration = start
        for i in range(3):
            train_step(state, batch, config)
            assert state.iteration == int(state.clock) == start + i + 1
