"""The modules are their functions with parameters that nn.Conv1d can hold too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import d2kernels as d2k
from d2kernels.nn import AttentionPool, ForegroundScore, TemporalConv1d, TopkPool


def batch(channels=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return d2k.Ragged.pack([torch.randn(s, channels, generator=generator).to(dtype) for s in (5, 9, 1)], gap=1)


def same(a, b):
    """Equal rows, whatever the form."""
    a, b = (x.values if isinstance(x, d2k.Ragged) else x for x in (a, b))
    return torch.equal(a, b)


def calls(module, x):
    """The module's result in every form of one batch, gap rows dropped."""
    dense, mask = x.padded()
    inside = x.row_mask()
    yield module(x).values[inside]
    yield module(x.values, offsets=x.offsets, lengths=x.lengths)[inside]
    yield module(dense, lengths=x.lengths)[mask]
    yield module(dense, mask=mask)[mask]


@pytest.mark.parametrize("options", [{}, {"dilation": 2, "groups": 2}, {"bias": False}])
def test_state_dict_exchanges_with_conv1d(options):
    x = batch()
    padding = options.get("dilation", 1)
    ours, theirs = TemporalConv1d(4, 6, 3, **options), nn.Conv1d(4, 6, 3, padding=padding, **options)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    want = torch.cat([theirs(s.T[None])[0].T for s in x.unpack()])
    for got in calls(ours, x):
        torch.testing.assert_close(got, want)
    theirs.load_state_dict(TemporalConv1d(4, 6, 3, **options).state_dict())


def test_same_seed_initialises_as_conv1d():
    torch.manual_seed(3)
    ours = TemporalConv1d(4, 6, 3, groups=2)
    torch.manual_seed(3)
    theirs = nn.Conv1d(4, 6, 3, groups=2)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("options", [{"padding": "same", "dilation": 3}, {"padding": 2, "dilation": 2}, {"padding": 1}])
def test_from_conv1d_shares_the_parameters(options):
    conv = nn.Conv1d(4, 4, 3, groups=2, **options)
    ours = TemporalConv1d.from_conv1d(conv, negative_slope=0.2, residual=True)
    assert ours.weight is conv.weight and ours.bias is conv.bias
    x = batch()
    want = torch.cat([nn.functional.leaky_relu(conv(s.T[None]), 0.2)[0].T + s for s in x.unpack()])
    torch.testing.assert_close(ours(x).values[x.row_mask()], want)
    assert TemporalConv1d.from_conv1d(nn.Conv1d(4, 4, 3, padding=1, bias=False)).bias is None


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 3, "padding": 1, "dilation": 2},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    ],
)
def test_from_conv1d_refuses_what_it_cannot_do(options):
    with pytest.raises(ValueError, match=r"from_conv1d: needs stride 1, odd kernel and 'same' zero padding: Conv1d\(4"):
        TemporalConv1d.from_conv1d(nn.Conv1d(4, 4, **options))


def test_from_conv1d_of_a_parametrized_weight_or_in_eval():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, padding=1))
    with pytest.raises(ValueError, match="from_conv1d: a parametrized weight cannot be shared"):
        TemporalConv1d.from_conv1d(normed)
    assert not TemporalConv1d.from_conv1d(nn.Conv1d(4, 4, 3, padding=1).eval(), dropout=0.5).training


def test_constructor_errors():
    for size in (0, 2):
        with pytest.raises(ValueError, match=f"kernel_size must be odd, got {size}"):
            TemporalConv1d(4, 4, size)
    with pytest.raises(ValueError, match="residual needs equal channels, got 4 and 6"):
        TemporalConv1d(4, 6, 3, residual=True)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        ForegroundScore(0)


def test_temporal_conv_equals_the_function_and_trains():
    x = batch(dtype=torch.float64)
    module = TemporalConv1d(4, 4, 3, dilation=2, negative_slope=0.1, residual=True, dtype=torch.float64)
    options = {"dilation": 2, "negative_slope": 0.1, "residual": True}
    want = d2k.temporal_conv(x, module.weight, module.bias, **options)
    assert same(module(x), want)
    module(x).values.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("options", [{}, {"divisor": 3, "rounding": "floor"}])
def test_topk_pool_equals_the_function(options):
    x = batch()
    module = TopkPool(**options)
    want = d2k.topk_pool(x, **{"divisor": 8, **options})
    dense, mask = x.padded(fill=float("nan"))
    assert same(module(x), want) and same(module(dense, lengths=x.lengths), want)
    assert same(module(dense, mask=mask), want)
    assert same(module(x.values, offsets=x.offsets, lengths=x.lengths), want)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.25, "inclusive": True, "normalize": True}])
def test_attention_pool_equals_the_function(options):
    x = batch()
    attention = (torch.arange(len(x.values)) % 5) / 4
    module = AttentionPool(**options)
    for keywords in ({}, {"offsets": x.offsets, "lengths": x.lengths}):
        rows = x.values if keywords else x
        got, want = module(rows, attention, **keywords), d2k.attention_pool(rows, attention, **options, **keywords)
        assert type(got) is type(want)
        assert torch.equal(got.embedding, want.embedding) and torch.equal(got.mass, want.mass)


def test_foreground_score_holds_its_reference():
    x = batch()
    module = ForegroundScore(4, eps=1e-3)
    assert not list(module.parameters()) and list(module.state_dict()) == ["reference"]
    assert (module(x).values[x.row_mask()] == 0.5).all()
    reference = torch.tensor([1.0, -2.0, 0.5, 1e-5])
    module.load_state_dict({"reference": reference})
    want = d2k.foreground_score(x, reference, eps=1e-3)
    assert same(module(x), want)
    for got in calls(module, x):
        torch.testing.assert_close(got, want.values[x.row_mask()])
    module.reference.copy_(reference * 1e-5)
    assert same(module(x), d2k.foreground_score(x, reference * 1e-5, eps=1e-3))
    assert not same(module(x), want)
    assert ForegroundScore(4, dtype=torch.float64).reference.dtype == torch.float64


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (TemporalConv1d(4, 6, 3, dilation=2, groups=2), "4, 6, kernel_size=3, dilation=2, groups=2"),
        (
            TemporalConv1d(4, 4, 3, negative_slope=0.2, residual=True),
            "4, 4, kernel_size=3, dilation=1, groups=1, negative_slope=0.2, residual=True",
        ),
        (TopkPool(4, "floor"), "divisor=4, rounding='floor'"),
        (AttentionPool(0.25, normalize=True), "threshold=0.25, inclusive=False, normalize=True"),
        (ForegroundScore(7, eps=1e-4), "7, eps=0.0001"),
    ],
)
def test_repr_says_the_options(module, says):
    assert repr(module) == f"{type(module).__name__}({says})"
