"""The pooling ops' Triton kernels against float64, with data-derived tolerances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
layouts = st.tuples(st.lists(st.sampled_from([0, 1, 2, 7, 30, 129, 300]), min_size=1, max_size=4), st.integers(0, 2))


def draw(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def packed(layout):
    """offsets (n + 1,), lengths (n,) and which rows are in a sequence."""
    lengths, gap = torch.tensor(layout[0]), layout[1]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (lengths + gap).cumsum(0)]) + gap
    total = int(offsets[-1])
    return offsets, lengths, d2k.Ragged(torch.zeros(total, 1), offsets, lengths).row_mask()


def compare(op, run, inputs, dtypes):
    """Outputs and gradients by Triton, within twice the reference's own error in these dtypes and rounding."""

    def by(backend, kinds):
        leaves = [t.to(DEVICE, k).requires_grad_() for t, k in zip(inputs, kinds, strict=True)]
        with d2k.backends.use(backend, op):
            out = run(*leaves)
            seeds = [(torch.arange(o.numel(), device=DEVICE).view(o.shape) * 0.7).cos().to(o) for o in out]
            made = [*out, *torch.autograd.grad(out, leaves, seeds)]
        return [t.detach().double().cpu() for t in made]

    want, own, got = by("reference", [torch.float64] * len(dtypes)), by("reference", dtypes), by("triton", dtypes)
    rounding = max(1e-13, *(torch.finfo(k).eps for k in dtypes))  # sums that cancel lose more than their last bit
    for g, w, o in zip(got, want, own, strict=True):
        assert torch.isfinite(g).all()
        assert (g - w).norm() <= 2 * (o - w).norm() + 4 * rounding * w.norm() + 1e-30
        if w.norm() > 0:
            assert abs(g.norm() / w.norm() - 1) < 0.05 and torch.cosine_similarity(g.ravel(), w.ravel(), 0) > 0.99


@settings(max_examples=25)
@given(
    layouts,
    st.sampled_from([1, 5, 40, 600]),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(d, a) for d in DTYPES for a in (d, torch.float32)]),
)
def test_attention_pool(layout, width, columns, inclusive, normalize, dtypes):
    offsets, lengths, inside = packed(layout)
    total = len(inside)
    attention = (draw(total, columns or 1, seed=1) * 8).round() / 8  # some on the threshold
    attention = attention if columns else attention[:, 0]
    unread = ~inside | ((attention if columns else attention[:, None]) < 0.5).all(1)
    x = torch.where(unread[:, None], NAN, (draw(total, width, seed=0) - 0.5).to(dtypes[0]).double())

    def run(x, attention):
        place = offsets.to(DEVICE), lengths.to(DEVICE)
        return d2k.attention_pool(
            d2k.Ragged(x, *place), d2k.Ragged(attention, *place), inclusive=inclusive, normalize=normalize
        )

    compare("attention_pool", run, (x, attention), dtypes)


# One channel's cosine is ±1: its gradients are rounding alone.
@settings(max_examples=20)
@given(layouts, st.sampled_from([2, 5, 40, 600]), st.sampled_from([(d, r) for d in DTYPES for r in (d, torch.float32)]))
def test_foreground_score(layout, width, dtypes):
    offsets, lengths, inside = packed(layout)
    x = (draw(len(inside), width, seed=0) - 0.3).to(dtypes[0]).double()
    if dtypes[0] != torch.float16:  # in which the gradient of a row without direction overflows
        x[::5] = 0
    x = torch.where(inside[:, None], x, NAN)
    reference = (draw(width, seed=1) - 0.2).to(dtypes[1]).double()

    def run(x, reference):
        return [d2k.foreground_score(d2k.Ragged(x, offsets.to(DEVICE), lengths.to(DEVICE)), reference).values]

    compare("foreground_score", run, (x, reference), dtypes)


@settings(max_examples=40)
@given(layouts, st.sampled_from(DTYPES), st.sampled_from([1, 3, 1000]), st.sampled_from([None, NAN, float("inf")]))
def test_lowest_attention(layout, dtype, levels, special):
    offsets, lengths, inside = packed(layout)
    attention = (draw(len(inside), seed=2) * levels).floor().to(dtype)
    if special is not None:
        attention[draw(len(inside), seed=3) < 0.05] = special
    batch = [t.to(DEVICE) for t in (attention, offsets, lengths)]
    got, want = (
        d2k.lowest_attention(d2k.Ragged(*batch)) for backend in ("triton", "reference")
        if d2k.backends.use(backend, "lowest_attention")
    )  # fmt: skip
    d2k.backends.use(None, "lowest_attention")
    assert torch.equal(got, want)


def test_a_day_of_rows():
    attention = draw(135_000, seed=4)
    attention[[77_777, 99_999]] = -1
    for backend in ("triton", "reference"):
        with d2k.backends.use(backend, "lowest_attention"):
            place = d2k.lowest_attention(attention.to(DEVICE), offsets=torch.tensor([0, 135_000], device=DEVICE))
        assert place.tolist() == [77_777]


@pytest.mark.parametrize("normalize", [False, True])
def test_a_sequence_is_the_same_to_the_bit_in_any_batch(normalize):
    sequences = [(draw(s, 24, seed=s), draw(s, 2, seed=s + 1)) for s in (5, 300, 1, 129)]

    def run(order):
        x, attention = (d2k.Ragged.pack([sequences[i][j].float() for i in order], gap=1).to(DEVICE) for j in (0, 1))
        leaves = [x.values.requires_grad_(), attention.values.requires_grad_()]
        with d2k.backends.use("triton"):
            out = d2k.attention_pool(x.with_values(leaves[0]), attention.with_values(leaves[1]), normalize=normalize)
            score = d2k.foreground_score(x.with_values(leaves[0]), torch.ones(24, device=DEVICE))
            grads = torch.autograd.grad([out.embedding.sum(), out.mass.sum(), score.values.sum()], leaves)
        rows = [x.with_values(v).unpack() for v in (score.values, *grads)]
        return {i: [out.embedding[j], out.mass[j], *(r[j] for r in rows)] for j, i in enumerate(order)}

    whole = run([0, 1, 2, 3])
    for order in ([3, 1, 0, 2], [1], [2, 1]):
        for i, parts in run(order).items():
            assert all(torch.equal(a, b) for a, b in zip(parts, whole[i], strict=True)), (order, i)


@pytest.mark.parametrize("places", [([0, 5, 3, 40], [9, -4, 90]), ([-7, 4, 10**12, 20], [3, 10**15, 2])])
def test_bad_places_on_a_device_touch_nothing_else(places):
    offsets, lengths = (torch.tensor(p, device=DEVICE) for p in places)
    around = torch.full((600, 16), 7.0, device=DEVICE)
    x, attention = around[200:400].requires_grad_(), draw(200, 2, seed=1).float().to(DEVICE).requires_grad_()

    def batch(values):
        return d2k.Ragged._trusted(values, offsets, lengths)

    with d2k.backends.use("triton"):
        out = d2k.attention_pool(batch(x), batch(attention))
        score = d2k.foreground_score(batch(x), torch.ones(16, device=DEVICE))
        place = d2k.lowest_attention(batch(attention.detach()[:, 0].contiguous()))
        grads = torch.autograd.grad([out.embedding.sum(), score.values.sum()], [x, attention])
    assert all(torch.isfinite(g).all() for g in (out.embedding, score.values, *grads))
    assert (place < 200).all() and (around == 7).all()
