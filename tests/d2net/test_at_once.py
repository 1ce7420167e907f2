"""The objective in one call of the extension: the bits of the operations by themselves, and where these must serve."""

from __future__ import annotations

import contextlib

import pytest
import torch
from steps import batches, prepared
from torch.utils._python_dispatch import TorchDispatchMode

import d2kernels as d2k
from d2kernels.ops.temporal_conv import products
from d2net.methods.base import Step
from d2net.methods.d2net import method
from d2net.training.step import train_step

pytestmark = pytest.mark.skipif(
    not (d2k.backends.can_run("head", "native") and products.available()), reason="no products of our own here"
)
ALTERNATIVES = {
    "as it is": {},
    "residual": {"model.residual": True},
    "no residual": {"model.residual": False},
    "no slope": {"model.negative_slope": 0.0},
    "no dropout": {"model.dropout": 0.0},
    "wide": {"model.kernel_size": 5, "model.dilation": 2, "model.classifier_kernel_size": 3},
    "attention of all classes": {"loss.ds_attention": "all"},
    "x_bg": {"loss.reference_source": "embedding"},
    "all pairs": {"loss.pairs": "all"},
    "cross-entropy": {"loss.classification": "CE"},
    "L_DV alone": {"loss.denoising": "video"},
    "floor": {"loss.pool_rounding": "floor", "loss.pool_divisor": 3},
}


def trained(monkeypatch, at_once, recipe, overrides, width=64):
    """What six steps leave, the first three before L_D, and how many of them were taken at once."""
    taken = []

    def observed(*given):
        found = at_once(*given) if at_once else None
        taken.append(found is not None)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(method, "objective_at_once", observed)
        state, config = prepared(recipe, width=width, **overrides)
        for batch in batches(6, config, width):
            train_step(state, batch, config)
    moments = [t for s in state.optimizer.state.values() for t in s.values()]
    gradients = [p.grad for p in state.parameters]
    return [*state.network.state_dict().values(), state.sums, *moments, *gradients], sum(taken)


@pytest.mark.parametrize("recipe", ["release", "paper"])
@pytest.mark.parametrize("alternative", list(ALTERNATIVES))
def test_the_bits_of_the_operations(monkeypatch, recipe, alternative):
    ours, taken = trained(monkeypatch, method.objective_at_once, recipe, ALTERNATIVES[alternative])
    theirs, _ = trained(monkeypatch, None, recipe, ALTERNATIVES[alternative])
    assert taken == 6
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def asked(width=64):
    """What `objective_at_once` takes."""
    state, config = prepared(width=width)
    step = Step(1, torch.ones((), dtype=torch.int64), state.generator)
    return state.network, batches(1, config, width)[0], config, step


@pytest.mark.parametrize(
    "around",
    [
        lambda: d2k.backends.use("reference", "topk_pool"),
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.no_grad,
        TorchDispatchMode,
        torch.autograd.detect_anomaly,
    ],
    ids=["backend", "autocast", "no grad", "mode", "anomaly"],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_the_operations_serve_where_something_asks_for_them(around):
    given = asked()
    assert method.objective_at_once(*given) is not None
    with around():
        assert method.objective_at_once(*given) is None


def test_a_profiler_sees_it():
    given = asked()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert method.objective_at_once(*given) is not None
    assert "d2k::objective" in {event.name for event in profile.events()}


def test_the_bits_of_the_operations_by_winograd(monkeypatch):
    plain, _ = trained(monkeypatch, None, "release", {}, width=128)
    monkeypatch.setenv("D2K_FLOAT32", "winograd")
    ours, taken = trained(monkeypatch, method.objective_at_once, "release", {}, width=128)
    theirs, _ = trained(monkeypatch, None, "release", {}, width=128)
    assert taken == 6 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], plain[0])


def test_a_changed_network_goes_by_its_modules():
    def hook(*_):
        return None

    changes = [
        lambda n: n.conv2.register_forward_hook(hook),
        lambda n: n.classifier.register_full_backward_hook(hook),
        lambda n: n.conv1.weight.requires_grad_(False),
        lambda n: torch.nn.utils.parametrizations.weight_norm(n.conv1),
        lambda n: setattr(n, "conv1", torch.nn.Sequential(n.conv1)),
        lambda n: setattr(n.conv1, "residual", not n.conv1.residual),
        lambda n: setattr(n, "hidden", n.hidden),
        lambda n: setattr(n.conv1, "weight", torch.nn.Parameter(n.conv1.weight.data[..., :2].contiguous())),
    ]
    for change in changes:
        network, *given = asked()
        change(network)
        assert method.objective_at_once(network, *given) is None
    with contextlib.closing(torch.nn.modules.module.register_module_forward_hook(hook)) as handle:
        handle.close = handle.remove
        assert method.objective_at_once(*asked()) is None


@pytest.mark.parametrize("clock", [None, torch.ones((), dtype=torch.int32), torch.ones(())])
def test_a_clock_that_counts_in_no_int64_is_left_to_the_checks_of_the_operations(clock):
    network, batch, config, step = asked()
    assert method.objective_at_once(network, batch, config, step._replace(clock=clock)) is None


def test_wrong_batches_are_left_to_the_checks_of_the_operations():
    network, batch, config, step = asked()
    for wrong in (
        batch._replace(labels=batch.labels[:-1]),
        batch._replace(labels=batch.labels.float()),
        batch._replace(features=batch.features[:, :-2]),
        batch._replace(offsets=batch.offsets[:-1]),
    ):
        assert method.objective_at_once(network, wrong, config, step) is None
        with pytest.raises((ValueError, TypeError)):
            method.objective(network, wrong, config, step)


def test_a_scaled_loss_scales_its_gradients():
    network, *given = asked()
    network.conv2.dropout = 0.0
    gradients = []
    for factor in (1.0, 2.0):
        given[2].generator.manual_seed(3)
        total = method.objective_at_once(network, *given).total
        gradients.append(torch.autograd.grad(factor * total, list(network.parameters())))
    assert all(torch.equal(2 * a, b) for a, b in zip(*gradients, strict=True))


def test_it_is_differentiated_once():
    network, *given = asked()
    weights = list(network.parameters())
    total = method.objective_at_once(network, *given).total
    with pytest.raises(RuntimeError, match="objective has no second derivative"):
        torch.autograd.grad(torch.autograd.grad(total * total, weights, create_graph=True)[0].sum(), weights)
    total = method.objective_at_once(network, *given).total
    gradients = torch.autograd.grad(total, weights, create_graph=True)
    with pytest.raises(RuntimeError, match="objective has no second derivative"):
        (total + sum(g.square().sum() for g in gradients)).backward()
    total = method.objective_at_once(network, *given).total
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()
