"""temporal_conv's Triton kernels, interpreted where there is no GPU: against float64, with data-derived tolerances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(backend, dtype, values, weight, bias, seeds, offsets, lengths, **options):
    """Output and gradients of all inputs, on the CPU in float64."""
    leaves = [t.to(DEVICE, dtype).requires_grad_() for t in (values, weight, bias) if t is not None]
    x, w, *b = leaves
    with d2k.backends.use(backend, "temporal_conv"):
        out = d2k.temporal_conv(
            d2k.Ragged(x, offsets.to(DEVICE), lengths.to(DEVICE)), w, *b, **options
        ).values
        made = [out, *torch.autograd.grad(out, leaves, seeds.to(DEVICE, dtype))]
    return [t.detach().double().cpu() for t in made]


def packed(lengths, gap):
    """offsets (n + 1,), lengths, and the rows in all."""
    lengths = torch.tensor(lengths)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (lengths + gap).cumsum(0)]) + gap
    return offsets, lengths, int(offsets[-1])


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=5),
    st.integers(0, 2),
    st.sampled_from([1, 3, 5]),
    st.builds(
        dict,
        dilation=st.sampled_from([1, 2, 40]),
        groups=st.sampled_from([1, 2]),
        negative_slope=st.sampled_from([None, 0.2, 0.0, -0.5]),
        residual=st.booleans(),
    ),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([3, 20, 70]),
)
def test_equals_float64(lengths, gap, kernel, options, with_bias, dtype, c_out):
    offsets, lengths, total = packed(lengths, gap)
    groups, c_in = options["groups"], 12
    c_out = c_in if options["residual"] else c_out
    # What each dtype holds exactly, so that the float64 oracle sees the same numbers.
    values = normal(total, groups * c_in, seed=0).to(dtype)
    inside = d2k.Ragged(values, offsets, lengths).row_mask()[:, None]
    values = torch.where(inside, values, NAN)
    weight = (normal(groups * c_out, c_in, kernel, seed=1) * 0.3).to(dtype)
    bias = normal(groups * c_out, seed=2).to(dtype) if with_bias else None
    seeds = normal(total, groups * c_out, seed=3).to(dtype)
    problem = (values, weight, bias, seeds, offsets, lengths)
    want = gradients("reference", torch.float64, *problem, **options)
    own = gradients("reference", dtype, *problem, **options)
    got = gradients("triton", dtype, *problem, **options)
    rounding = torch.finfo(dtype).eps
    for g, w, o in zip(got, want, own, strict=True):
        assert torch.isfinite(g).all()
        scale = w.norm().clamp(min=1e-30)
        assert (g - w).norm() <= 2 * (o - w).norm() + 2 * rounding * scale
        if w.norm() > 0:
            assert abs(g.norm() / w.norm() - 1) < 0.1 and torch.cosine_similarity(g.ravel(), w.ravel(), 0) > 0.99
    for rows in got[:2]:
        assert (rows[~inside[:, 0]] == 0).all()


def run(values, offsets, lengths, weight, **options):
    with d2k.backends.use("triton", "temporal_conv"):
        leaf = values.to(DEVICE).requires_grad_()
        out = d2k.temporal_conv(d2k.Ragged._trusted(leaf, offsets.to(DEVICE), lengths.to(DEVICE)), weight, **options)
        (grad,) = torch.autograd.grad(out.values.sum(), leaf)
    return out.values.detach().cpu(), grad.cpu()


def test_a_sequence_is_the_same_to_the_bit_in_any_batch():
    def numbers(*shape, seed):
        made = normal(*shape, seed=seed).float()
        # The interpreter's products round by place in a tile; those of small integers are exact.
        return made if DEVICE == "cuda" else made.mul(4).round()

    weight = numbers(16, 16, 3, seed=1).to(DEVICE)
    sequences = [numbers(s, 16, seed=s) for s in (5, 130, 1, 64)]

    def rows(order):
        batch = d2k.Ragged.pack([sequences[i] for i in order])
        out = run(batch.values, batch.offsets, batch.lengths, weight, negative_slope=0.25, residual=True)
        return {i: torch.cat(p) for i, *p in zip(order, *(batch.with_values(v).unpack() for v in out), strict=True)}

    whole = rows([0, 1, 2, 3])
    for order in ([3, 1, 0, 2], [1], [2, 1]):
        assert all(torch.equal(made, whole[i]) for i, made in rows(order).items())


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [([0, 5, 3, 40], [9, -4, 90]), ([-7, 4, 10**12, 20], [3, 10**15, 2]), ([30, 20, 10, 0], [9] * 3)],
)
def test_bad_places_on_a_device_touch_nothing_else(offsets, lengths):
    weight = normal(8, 8, 3, seed=1).float().to(DEVICE)
    around = torch.full((60, 8), 7.0)
    out, grad = run(around[20:40], torch.tensor(offsets), torch.tensor(lengths), weight)
    assert torch.isfinite(out).all() and torch.isfinite(grad).all() and (around == 7).all()


def test_strided_rows_and_repeated_bits():
    wide = normal(50, 40, seed=0).float()
    offsets, lengths, _ = packed([20, 30], 0)
    weight = normal(20, 20, 3, seed=1).float().to(DEVICE)
    first = run(wide[:, 5:25], offsets, lengths, weight)
    again = run(wide[:, 5:25].clone(), offsets, lengths, weight)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_float64_is_refused_by_name():
    x = torch.zeros(3, 4, dtype=torch.float64, device=DEVICE)
    with d2k.backends.use("triton", "temporal_conv"), pytest.raises(d2k.backends.BackendUnavailable, match="float64"):
        d2k.temporal_conv(x, torch.zeros(4, 4, 3, dtype=torch.float64, device=DEVICE), offsets=torch.tensor([0, 3]))
