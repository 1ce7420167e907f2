"""temporal_conv: one layer of both streams with bias, LeakyReLU and residual, ragged against padded.

And the convolution alone on batches of equal lengths, every side in its own layout.
"""

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
# Sequences, snippets, channels in and out, groups: BaS-Net's and CoLA's batches, and TARGETS' widths.
EQUAL = [
    *[(4, 320, 2048, 2048, 1), (4, 750, 2048, 1024, 1), (8, 320, 512, 512, 1), (4, 750, 128, 128, 1)],
    *[(20, 130, 128, 128, 2), (20, 300, 72, 72, 2), (8, 320, 32, 32, 1), (8, 320, 1024, 1024, 4)],
    (10, 750, 2048, 2048, 2),
]
SHORT = EQUAL[3:7]


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

    def gapped():
        """As d2net's batches lie: zero rows as wide as the taps reach, known to be there."""
        spread = work.gapped(x, work.kernel // 2 * work.dilation)
        inside = spread.row_mask()
        gradient = seed.new_zeros(len(inside), work.width)
        gradient[inside] = seed
        call = lambda v, weight, bias: d2k.temporal_conv(  # noqa: E731
            d2k.Ragged._trusted(v, spread.offsets, spread.lengths, work.longest, spread.gap), weight, bias,
            **settings, negative_slope=0.2, residual=True,
        ).values  # fmt: skip
        made = steps(call, (spread.values, weight, bias), [gradient] if backward else None)
        return Side("with gap rows", made, lambda out: [t[inside] if len(t) == len(inside) else t for t in out])

    pairs = conv.product_inputs(work.total, weight, work.groups)
    chosen, others = of(OP, device, run, dtype=kind)
    # On a CPU both take the same way.
    others = [*others, gapped()] if device.type == "cuda" else others
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


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("work", EQUAL, ids=lambda w: "{}x{}, {} to {}, {} groups".format(*w))
def test_equal_lengths(contest, device, full, work, direction):
    if not full and device.type == "cpu" and work not in SHORT:
        pytest.skip("takes over 10 s on a CPU; --full runs it")
    n, s, c_in, c_out, groups = work
    backward = direction != "forward"

    def drawn(*shape, seed):
        return shapes.normal(*shape, seed=seed, dtype=torch.float32, device=device)

    x, grad, bias = drawn(n, s, c_in, seed=0), drawn(n, s, c_out, seed=1), drawn(c_out, seed=2)
    weight = drawn(c_out, c_in // groups, 3, seed=3) * (3 * c_in // groups) ** -0.5
    lengths = torch.full((n,), s, device=device)

    def ours(x, weight, bias):
        return d2k.temporal_conv(x, weight, bias, groups=groups, lengths=lengths)

    def side(name, function, turned):
        """With rows as they are, or turned to (n, d, s)."""
        turn = (lambda t: t.mT.contiguous()) if turned else (lambda t: t)
        call = lambda x, weight, bias: function(x, weight, bias, groups)  # noqa: E731
        made = steps(call, (turn(x), weight, bias), [turn(grad)] if backward else None)
        return Side(name, made, lambda out: [t.mT if t.shape[0] == n and t.dim() == 3 and turned else t for t in out])

    run = steps(ours, (x, weight, bias), [grad] if backward else None)
    exact = steps(ours, [t.double() for t in (x, weight, bias)], [grad.double()] if backward else None)
    chosen, _ = of(OP, device, run, dtype=torch.float32)
    contest(
        op=OP,
        work=f"{n} × {s}, {c_in} → {c_out}, groups {groups}",
        direction=direction,
        ours=chosen,
        peers=[
            side("F.conv1d", conv.plain, True),
            side("channels-last conv2d", conv.plain_channels_last, False),
            compiled.peer(device, conv.plain, lambda name, f: side(name, f, True), "torch.compile of F.conv1d"),
        ],
        oracle=reference(OP, exact),
        reference=reference(OP, run),
        cost=minimal.layer(n * s, c_in, c_out, 3, groups, 4, backward),
    )
