"""temporal_conv with bias, LeakyReLU and residual: one layer of both streams, ragged against padded."""

from __future__ import annotations

import minimal
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, steps
from peers import compiled, conv

import d2kernels as d2k

OP = "temporal_conv"
CASES = [
    (work, dtype, way, direction)
    for work in shapes.BATCHES
    for dtype, way in (("float32", ""), ("float32", "winograd"), ("bfloat16", ""))
    for direction in ("forward", "forward+backward")
]
QUICK = (shapes.THUMOS, "float32")


@pytest.mark.parametrize(("work", "dtype", "way", "direction"), CASES, ids=lambda v: getattr(v, "name", v))
def test_temporal_conv(contest, device, full, work, dtype, way, direction, monkeypatch):
    if way and (device.type != "cpu" or (work.kernel, work.dilation) != (3, 1)):
        pytest.skip("on a CPU, with kernel 3 and dilation 1 only")
    monkeypatch.setenv("D2K_FLOAT32", way)
    if not full and device.type == "cpu" and (work, dtype) != QUICK:
        pytest.skip("takes over 10 s on a CPU; --full runs it")
    kind, backward = getattr(torch, dtype), direction != "forward"
    x = shapes.normal(work.total, work.width, seed=0, dtype=kind, device=device)
    shape = (work.width, work.width // work.groups, work.kernel)
    weight = shapes.normal(*shape, seed=1, dtype=kind, device=device) * (shape[1] * shape[2]) ** -0.5
    # Far from 0, where rounding would choose the activation's branch.
    bias = shapes.normal(work.width, seed=2, dtype=kind, device=device).sign() * 8
    seed = shapes.normal(work.total, work.width, seed=3, dtype=kind, device=device)
    settings = {"groups": work.groups, "dilation": work.dilation}

    def ours(x, weight, bias):
        return d2k.temporal_conv(work.ragged(x), weight, bias, **settings, negative_slope=0.2, residual=True).values

    def seeds(dtype):
        return [seed.to(dtype)] if backward else None

    run = steps(ours, (x, weight, bias), seeds(kind))
    exact = steps(ours, [t.double() for t in (x, weight, bias)], seeds(torch.float64))
    dense, mask = work.padded(x), work.mask(device)
    dense_seeds = [work.padded(seed)] if backward else None

    def packed(out):
        return [work.packed(t) if t.shape[:2] == mask.shape else t for t in out]

    def padded(name, function):
        call = lambda x, weight, bias: function(x, mask, weight, bias, work.groups, work.dilation)  # noqa: E731
        return Side(name, steps(call, (dense, weight, bias), dense_seeds), packed)

    pairs = conv.product_inputs(work.total, weight, work.groups)
    chosen, others = of(OP, device, run, dtype=kind)
    contest(
        op=OP,
        work=f"{work.name}, {way}" if way else work.name,
        direction=direction,
        dtype=dtype,
        ours=chosen,
        peers=[
            *others,
            padded("F.conv1d, padded", conv.padded),
            padded("channels-last conv2d, padded", conv.channels_last),
            compiled.peer(device, conv.padded, padded),
            Side("bare products of equal FLOPs", lambda: conv.products(pairs, backward), checked=False),
        ],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.temporal_conv(work, kind.itemsize, backward),
    )
