"""temporal_conv on the CPU by our own products: any shape, whatever lies in gap rows, on any number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels import _native
from d2kernels.ops.temporal_conv import native, products, reference

NAN = float("nan")
SEED = torch.tensor([5 - 2**61, 0])


@pytest.fixture(autouse=True)
def own():
    found, reason = _native.extension()
    if found is None or not found.convolves_cpu():
        pytest.skip(reason or "this machine has no products of our own")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(lengths, c_in, c_out, groups, taps, dilation, slope, residual, dropout, gap=0, junk=NAN):
    """The arguments of the op; rows lie apart in a wider buffer, and gap rows hold junk."""
    c_out = c_in if residual else c_out
    x = d2k.Ragged.pack([normal(s, groups * c_in, seed=i) for i, s in enumerate(lengths)], gap=gap)
    wide = torch.full((len(x.values), groups * c_in + 3), junk)
    rows = wide[:, 1 : groups * c_in + 1]
    rows.copy_(torch.where(x.row_mask()[:, None], x.values, junk))
    weight = normal(groups * c_out, c_in, taps, seed=50) * (c_in * taps) ** -0.5
    bias = normal(groups * c_out, seed=51)
    rest = (x.offsets, x.lengths, dilation, groups, slope, residual, dropout, SEED if dropout else None)
    return x, (rows, weight, bias, *rest)


def wide(arguments):
    return [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]


def error(got, want):
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-30)).item()


def as_close(got, exact, rough):
    """By what the reference itself loses in float32."""
    assert got.shape == exact.shape and got.dtype == torch.float32
    assert error(got, exact) <= 2 * error(rough, exact) + 2e-7


def both(x, arguments):
    """Forward and backward of products, of the reference in float64, and in float32."""
    rows, weight, _, offsets, lengths, *options = arguments
    out, sign = products.forward(*arguments)
    grad = torch.where(x.row_mask()[:, None], normal(*out.shape, seed=9), NAN)
    back = (grad, rows, weight, offsets, lengths, sign, *options, True, True, True)
    return (
        (out, *products.backward(*back)),
        (reference.temporal_conv_forward(*wide(arguments))[0], *reference.temporal_conv_backward(*wide(back))),
        (reference.temporal_conv_forward(*arguments)[0], *reference.temporal_conv_backward(*back)),
    )


@settings(max_examples=40, deadline=None)
@example([5, 0, 1, 300], 64, 12, 2, 3, 1, 0.2, False, 0.0, 1)
@example([700, 3], 20, 20, 3, 5, 40, -0.5, True, 0.4, 0)
@example([2500], 3, 9, 1, 3, 2000, None, False, 0.0, 2)
@given(
    st.lists(st.integers(0, 90), min_size=0, max_size=6).map(lambda s: s or [1]),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 3),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from([1, 2, 17]),
    st.sampled_from([None, 0.2, 0.0, -0.3]),
    st.booleans(),
    st.sampled_from([0.0, 0.4]),
    st.integers(0, 3),
)
def test_forward_and_gradients(lengths, c_in, c_out, groups, taps, dilation, slope, residual, dropout, gap):
    x, arguments = problem(lengths, c_in, c_out, groups, taps, dilation, slope, residual, dropout, gap)
    inside = x.row_mask()
    for got, exact, rough in zip(*both(x, arguments), strict=True):
        as_close(got, exact, rough)
    out, grad_x = (both(x, arguments)[0][i] for i in (0, 1))
    assert not out[~inside].any() and not grad_x[~inside].any()


# More panels of weights than are packed at a time, a reduction longer than a packed row, chunks of the weight gradient.
@pytest.mark.parametrize(
    ("lengths", "c_in", "c_out", "taps", "dilation"),
    [([40, 60], 700, 1500, 3, 1), ([3000, 1500], 40, 30, 3, 5), ([50], 33, 600, 61, 1), ([4500], 8, 8, 3, 1400)],
)
def test_blocks_meet(lengths, c_in, c_out, taps, dilation):
    x, arguments = problem(lengths, c_in, c_out, 1, taps, dilation, 0.2, False, 0.0, 1)
    for got, exact, rough in zip(*both(x, arguments), strict=True):
        as_close(got, exact, rough)


def test_any_number_of_threads_gives_the_same_bits():
    x, arguments = problem([300, 0, 1, 700, 1300], 70, 70, 2, 3, 1, 0.2, True, 0.3, 1)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(both(x, arguments)[0])
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


# Alone, a sequence's taps are its rows shifted; beside many short ones they are packed apart.
@pytest.mark.parametrize("lengths", [[9, 130, 77], [9] * 60 + [130, 77]], ids=["long", "many short"])
@pytest.mark.parametrize("c_in", [40, 300])
def test_a_row_does_not_depend_on_the_batch(lengths, c_in):
    x, arguments = problem(lengths, c_in, 24, 2, 3, 2, 0.2, False, 0.0)
    out = products.forward(*arguments)[0]
    for i in (0, len(lengths) - 2, len(lengths) - 1):
        rows = slice(int(x.offsets[i]), int(x.offsets[i + 1]))
        one = torch.tensor([0, int(x.lengths[i])])
        alone = products.forward(arguments[0][rows], *arguments[1:3], one, one.diff(), *arguments[5:])[0]
        assert torch.equal(alone, out[rows])


def test_rows_that_lie_apart_have_the_same_bits():
    _, arguments = problem([90, 300], 32, 24, 2, 3, 1, 0.2, False, 0.0)
    wide = torch.full((len(arguments[0]), 700), float("nan"))
    wide[:, 5:69] = arguments[0]
    grad = torch.randn(len(wide), 48)
    made = []
    for rows in (arguments[0], wide[:, 5:69]):
        out, _ = products.forward(rows, *arguments[1:])
        rest = (arguments[1], *arguments[3:5], out, *arguments[5:])
        made.append((out, *products.backward(grad, rows, *rest, True, True, True)))
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_more_taps_than_a_packed_row_go_to_the_library():
    weight = torch.randn(2, 3, 769)
    x = torch.randn(5, 3)
    assert not products.serve(x, weight, 1, 1) and products.serve(x, weight[..., 2:], 1, 1)
    x, arguments = problem([600, 3], 3, 2, 1, 767, 1, None, False, 0.0, 0)
    for got, exact, rough in zip(*both(x, arguments), strict=True):
        as_close(got, exact, rough)


def test_infinite_rows_stay_in_their_sequence():
    _, arguments = problem([20, 30, 25], 16, 8, 1, 3, 1, None, False, 0.0)
    spoilt = arguments[0].clone()
    spoilt[25] = float("inf")
    clean, dirty = (products.forward(rows, *arguments[1:])[0] for rows in (arguments[0], spoilt))
    assert torch.equal(clean[:20], dirty[:20]) and torch.equal(clean[50:], dirty[50:])
    assert not dirty[24:27].isfinite().all() and dirty[27:].isfinite().all()


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize("options", [{}, {"negative_slope": 0.2}, {"negative_slope": 0.2, "residual": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_librarys_convolution_reads_rows_with_gaps_where_they_lie(gap, options, dtype, monkeypatch):
    """Same bits with gaps and without, whatever a gradient holds in gap rows."""
    monkeypatch.setattr(products, "serve", lambda *a: False)
    lengths, made, weights, copied = [40, 0, 1, 30], [], [], []
    spread = native.Layout.spread
    monkeypatch.setattr(native.Layout, "spread", lambda s, x, *a: copied.append((x, spread(s, x, *a))) or copied[-1][1])
    weight, bias = normal(32, 16, 3, seed=7).to(dtype), normal(32, seed=8).to(dtype)
    for wide_enough in (0, gap):
        x = d2k.Ragged.pack([normal(s, 32, seed=i).to(dtype) for i, s in enumerate(lengths)], gap=wide_enough)
        leaf, w, b = x.values.clone().requires_grad_(), *(t.clone().requires_grad_() for t in (weight, bias))
        given_rows = d2k.Ragged(leaf, x.offsets, x.lengths, gap=wide_enough)
        with d2k.backends.use("native", "temporal_conv"):
            out = d2k.temporal_conv(given_rows, w, b, groups=2, **options)
            seeds = x.with_values(torch.full_like(out.values, NAN))
            for i, part in enumerate(seeds.unpack()):
                part.copy_(normal(*part.shape, seed=20 + i))
            grads = torch.autograd.grad(out.values, (leaf, w, b), seeds.values)
        assert out.gap == wide_enough and not out.values[~x.row_mask()].any() and not grads[0][~x.row_mask()].any()
        made.append((*out.unpack(), *x.with_values(grads[0]).unpack()))
        weights.append(grads[1:])
        if wide_enough:
            before, after = copied[0]
            assert before.data_ptr() == after.data_ptr()
        copied.clear()
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
    for a, b in zip(*weights, strict=True):  # rows lie elsewhere: sums of another order
        torch.testing.assert_close(a, b)
