"""erosion and dilation against scipy.ndimage, sequence by sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import d2kernels as d2k

ndimage = pytest.importorskip("scipy.ndimage")
LENGTHS = (7, 1, 0, 12, 2)


def batch(dtype, gap=1):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(s, 3, generator=generator, dtype=torch.float64) for s in LENGTHS]
    rows = [x > 0.2 for x in rows] if dtype == torch.bool else [(3 * x).to(dtype) for x in rows]
    return d2k.Ragged.pack(rows, gap=gap)


def expected(x, size, op, border):
    out = np.zeros(x.values.shape, x.values.numpy().dtype)
    for a, s in zip(x.offsets.tolist(), x.lengths.tolist(), strict=False):
        for c in range(x.values.shape[1]) if s else ():
            column = x.values[a : a + s, c].numpy()
            if border is None:
                found = getattr(ndimage, f"grey_{op}")(column, size=size)
            else:
                found = getattr(ndimage, f"binary_{op}")(column, structure=np.ones(size), border_value=border)
            out[a : a + s, c] = found
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 30])
@pytest.mark.parametrize("op", ["erosion", "dilation"])
def test_equals_scipy(op, size):
    function = getattr(d2k, op)
    for dtype in (torch.float64, torch.float32, torch.int64):
        x = batch(dtype)
        found = function(x, size)
        assert found.dtype == dtype and np.array_equal(found.values, expected(x, size, op, None))
        assert found.gap == 1 and not found.values[~x.row_mask()].any()
    flags = batch(torch.bool)
    for border in (0, 1):
        assert np.array_equal(function(flags, size, border=border).values, expected(flags, size, op, border))


def test_a_window_costs_no_more_than_its_sequences():
    x = batch(torch.float32)
    for op in (d2k.erosion, d2k.dilation):
        for border in (None, 0.0):
            assert torch.equal(op(x, 2**40, border=border).values, op(x, 200, border=border).values)


@pytest.mark.parametrize("op", ["erosion", "dilation"])
def test_forms_types_and_sequences(op):
    function, x = getattr(d2k, op), batch(torch.float32)
    want = function(x, 3)
    dense, mask = x.padded()
    got = function(dense, 3, mask=mask)
    assert torch.equal(got[mask], want.values[x.row_mask()]) and not got[~mask].any()
    assert torch.equal(function(x.values, 3, offsets=x.offsets, lengths=x.lengths), want.values)
    half = function(x.to(torch.bfloat16), 3)
    assert half.dtype == torch.bfloat16 and torch.equal(
        half.values, function(x.to(torch.bfloat16).to(torch.float32), 3).to(torch.bfloat16).values
    )
    alone = function(d2k.Ragged.pack([x.unpack()[3]]), 5)
    assert torch.equal(function(x, 5).unpack()[3], alone.values)
    assert function(d2k.Ragged(torch.zeros(0, 2), torch.tensor([0])), 3).values.shape == (0, 2)
    cube = d2k.Ragged.pack([torch.randn(4, 2, 2), torch.randn(3, 2, 2)])
    assert torch.equal(
        function(cube, 3).values.flatten(1), function(cube.with_values(cube.values.flatten(1)), 3).values
    )


def test_gradients_and_errors():
    x = batch(torch.float64, gap=2)
    values = x.values.clone().requires_grad_()
    for function in (d2k.erosion, d2k.dilation):
        assert torch.autograd.gradcheck(lambda v, f=function: f(x.with_values(v), 3).values, values)
        with pytest.raises(ValueError, match="size must be"):
            function(x, 0)
        with pytest.raises((TypeError, ValueError), match="border"):
            function(x, 3, border="none")
        with pytest.raises(TypeError, match="real numbers"):
            function(x.to(torch.complex64), 3)
