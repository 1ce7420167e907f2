"""temporal_conv against nn.functional.conv1d on every sequence alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.temporal_conv import reference, schema

NAN = float("nan")


def batch(lengths, channels=4, dtype=torch.float64, seed=0, gap=0, fill=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = d2k.Ragged.pack(
        [torch.randn(s, channels, generator=generator, dtype=torch.float64).to(dtype) for s in lengths], gap=gap
    )
    return x.with_values(torch.where(x.row_mask()[:, None], x.values, fill))


def parameters(c_in=4, c_out=6, kernel=3, groups=1, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(c_out, c_in // groups, kernel, generator=generator, dtype=torch.float64)
    return weight.to(dtype), torch.randn(c_out, generator=generator, dtype=torch.float64).to(dtype)


def oracle(sequences, weight, bias=None, *, dilation=1, groups=1, negative_slope=None, residual=False):
    """Float64 rows of every sequence, one conv1d each."""
    out = []
    for x in (s.double() for s in sequences):
        y = x.new_zeros(0, weight.shape[0])
        if len(x):
            padding = dilation * (weight.shape[2] - 1) // 2
            b = None if bias is None else bias.double()
            y = F.conv1d(x.T[None], weight.double(), b, padding=padding, dilation=dilation, groups=groups)[0].T
        if negative_slope is not None:
            y = F.leaky_relu(y, negative_slope)
        out.append(y + x if residual else y)
    return torch.cat(out)


def inside(out):
    return torch.cat(out.unpack())


CONFIGS = [
    {},
    {"negative_slope": 0.2},
    {"residual": True},
    {"negative_slope": 0.2, "residual": True, "dilation": 2, "groups": 2},
    {"negative_slope": -0.3, "dilation": 3},
    {"negative_slope": 0.0, "groups": 4},
]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=5),
    st.integers(0, 2),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from([None, 0.2, 0.0, -0.5]),
    st.booleans(),
    st.booleans(),
)
def test_equals_conv1d(lengths, gap, dilation, groups, kernel, slope, residual, with_bias):
    x = batch(lengths, gap=gap, fill=NAN)
    weight, bias = parameters(c_out=4 if residual else 8, kernel=kernel, groups=groups)
    options = {"dilation": dilation, "groups": groups, "negative_slope": slope, "residual": residual}
    bias = bias if with_bias else None
    got = d2k.temporal_conv(x, weight, bias, **options)
    torch.testing.assert_close(inside(got), oracle(x.unpack(), weight, bias, **options), rtol=1e-12, atol=1e-12)
    assert not got.values[~x.row_mask()].any()


def test_three_forms_agree():
    x = batch([4, 7, 1], gap=1)
    dense, mask = x.padded(fill=NAN)
    weight, bias = parameters()
    want = d2k.temporal_conv(x, weight, bias, negative_slope=0.2)
    packed = d2k.temporal_conv(
        x.values, weight, bias, negative_slope=0.2, offsets=x.offsets, lengths=x.lengths
    )
    assert isinstance(want, d2k.Ragged) and torch.equal(packed, want.values)
    for got in (
        d2k.temporal_conv(dense, weight, bias, negative_slope=0.2, lengths=x.lengths),
        d2k.temporal_conv(dense, weight, bias, negative_slope=0.2, mask=mask),
    ):
        assert got.shape == (3, 7, 6) and not got[~mask].any()
        torch.testing.assert_close(got[mask], inside(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", CONFIGS)
def test_gap_rows_never_leak(options):
    clean = batch([5, 1, 3], gap=2)
    weight, bias = parameters(c_out=4, groups=options.get("groups", 1))
    grads = []
    for fill in (0.0, NAN):
        x = batch([5, 1, 3], gap=2, fill=fill)
        leaves = [t.clone().requires_grad_() for t in (x.values, weight, bias)]
        out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:], **options).values
        # A NaN gradient of a gap row must not leak either.
        g = torch.where(clean.row_mask()[:, None], torch.ones_like(out), fill)
        grads.append(torch.autograd.grad(out, leaves, g))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b) and a.isfinite().all()
    assert not grads[1][0][~clean.row_mask()].any()


def test_empty_batch_empty_sequence_and_one_row():
    weight, bias = (p.requires_grad_() for p in parameters())
    nothing = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    for offsets in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        for options in ({}, {"negative_slope": 0.2}, {"negative_slope": 0.0}):
            out = d2k.temporal_conv(nothing, weight, bias, offsets=offsets, **options)
            assert out.shape == (0, 6)
            grads = torch.autograd.grad(out.sum(), (nothing, weight, bias))
            assert grads[0].shape == (0, 4) and not grads[1].any() and not grads[2].any()
    x = torch.randn(2, 4, dtype=torch.float64)
    out = d2k.temporal_conv(x, weight, bias, offsets=torch.tensor([0, 1, 1, 2]))
    torch.testing.assert_close(out, x @ weight[:, :, 1].T + bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("options", CONFIGS[:4])
def test_low_precision_accumulates_in_float32(dtype, options):
    x = batch([90, 17], channels=64, dtype=dtype)
    weight, bias = parameters(64, 64, groups=options.get("groups", 1), dtype=dtype)
    leaves = [t.requires_grad_() for t in (x.values, weight, bias)]
    out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:], **options)
    want = oracle(x.unpack(), weight, bias, **options)
    g = batch([90, 17], channels=64, dtype=dtype, seed=2).values
    got = (out.values, *torch.autograd.grad(out.values, leaves, g))
    for mine, exact in zip(got, (want, *torch.autograd.grad(want, leaves, g.double())), strict=True):
        exact = exact.detach().double()
        assert mine.dtype == dtype
        rounding = (exact.to(dtype).double() - exact).norm() / exact.norm()
        assert (mine.double() - exact).norm() / exact.norm() <= 2 * rounding + 1e-6


@pytest.mark.parametrize("options", CONFIGS)
def test_gradcheck_backward_and_reference(options):
    x = batch([5, 2], gap=1)
    weight, bias = parameters(c_out=4, groups=options.get("groups", 1))
    leaves = [t.clone().requires_grad_() for t in (x.values, weight, bias)]
    linear = {k: options[k] for k in ("dilation", "groups") if k in options}
    assert inside(d2k.temporal_conv(x, weight, bias, **linear)).abs().min() > 1e-4
    assert torch.autograd.gradcheck(
        lambda v, w, b: d2k.temporal_conv(x.with_values(v), w, b, **options).values, leaves
    )
    g = torch.randn(x.values.shape, dtype=torch.float64)
    ours = torch.autograd.grad(d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:], **options).values, leaves, g)
    theirs = torch.autograd.grad(reference.temporal_conv(*leaves, x.offsets, x.lengths, **options), leaves, g)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_strided_arguments_and_partial_gradients():
    x = batch([5, 2], channels=8)
    weight, bias = parameters(c_out=4)
    strided = x.with_values(x.values[:, ::2].requires_grad_())
    weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    got = d2k.temporal_conv(strided, weight, bias, groups=1, negative_slope=0.1)
    torch.testing.assert_close(inside(got), oracle(strided.unpack(), weight, bias, negative_slope=0.1))
    (g,) = torch.autograd.grad(got.values.sum(), strided.values)
    want = torch.autograd.grad(oracle(strided.unpack(), weight, bias, negative_slope=0.1).sum(), strided.values)
    torch.testing.assert_close(g, want[0])


def test_neighbours_do_not_matter_and_runs_repeat():
    weight, bias = parameters()
    sequences = batch([6, 9, 4]).unpack()

    def run(parts):
        x = d2k.Ragged.pack(parts, gap=1)
        values = x.values.clone().requires_grad_()
        out = d2k.temporal_conv(x.with_values(values), weight, bias, dilation=2, negative_slope=0.2)
        (g,) = torch.autograd.grad(out.values.square().sum(), values)
        return out.unpack(), x.with_values(g).unpack()

    together, again = run(sequences), run(sequences)
    alone = [run([s]) for s in sequences]
    other = run([sequences[0], torch.full_like(sequences[1], NAN), sequences[2]])
    for part in (0, 1):
        for i, got in enumerate(together[part]):
            assert torch.equal(got, again[part][i])
            torch.testing.assert_close(got, alone[i][part][0], rtol=1e-12, atol=1e-12)
            assert i == 1 or torch.equal(got, other[part][i])


def test_second_derivative_raises():
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    out = d2k.temporal_conv(x, *parameters(), offsets=torch.tensor([0, 5])).square().sum()
    (g,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        (g.square().sum() + x.sum()).backward()


@pytest.mark.parametrize("options", CONFIGS[:4])
def test_opcheck(options):
    x = batch([4, 7], dtype=torch.float32, gap=1)
    weight, bias = parameters(c_out=4, groups=options.get("groups", 1), dtype=torch.float32)
    rest = ({"dilation": 1, "groups": 1, "negative_slope": None, "residual": False} | options).values()
    for b in (bias, None):
        torch.library.opcheck(schema.temporal_conv, (x.values, weight, b, x.offsets, x.lengths, *rest))
    sign = torch.rand(len(x.values), 4) > 0.5
    g = torch.randn(len(x.values), 4)
    torch.library.opcheck(schema.temporal_conv_backward, (g, x.values, weight, x.offsets, x.lengths, sign, *rest))


@pytest.mark.parametrize("options", [CONFIGS[1], CONFIGS[3]])
def test_compiles_whole_with_gradients(options):
    x = batch([4, 7], dtype=torch.float32)
    weight, bias = parameters(c_out=4, groups=options.get("groups", 1), dtype=torch.float32)

    def loss(values, w, b):
        return d2k.temporal_conv(x.with_values(values), w, b, **options).values.square().sum()

    eager, compiled = ([t.clone().requires_grad_() for t in (x.values, weight, bias)] for _ in range(2))
    loss(*eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*compiled).backward()
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_casts_as_conv1d():
    x = batch([4, 7], dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (x.values, *parameters(dtype=torch.float32))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:]).values
    assert out.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(out.float().sum(), leaves))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": torch.zeros(4, 5)}, ValueError, "x has 5 channels, but weight"),
        ({"x": torch.zeros(4, 4, dtype=torch.int64)}, ValueError, "x must be float rows.*int64"),
        ({"weight": torch.zeros(4, 4, 2)}, ValueError, r"k odd, got \(4, 4, 2\)"),
        ({"weight": torch.zeros(4, 4)}, ValueError, r"weight must be .* got \(4, 4\)"),
        ({"weight": torch.zeros(4, 4, 3).double()}, TypeError, "weight must be torch.float32 as x, got torch.float64"),
        ({"bias": torch.zeros(4).double()}, TypeError, "bias must be torch.float32 as x, got torch.float64"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must be \(4,\), got \(3,\)"),
        ({"dilation": 0}, ValueError, "dilation and groups must be at least 1, got 0 and 1"),
        ({"groups": 0}, ValueError, "at least 1, got 1 and 0"),
        ({"weight": torch.zeros(3, 2, 3), "bias": None, "groups": 2}, ValueError, "2 groups do not divide weight's 3"),
        ({"weight": torch.zeros(6, 4, 3), "bias": None, "residual": True}, ValueError, "got 4 in and 6 out"),
    ],
)
def test_errors_name_the_argument(change, error, says):
    arguments = {"x": torch.zeros(4, 4), "weight": torch.zeros(4, 4, 3), "bias": torch.zeros(4), **change}
    with pytest.raises(error, match=says):
        d2k.temporal_conv(**arguments, offsets=torch.tensor([0, 4]))
