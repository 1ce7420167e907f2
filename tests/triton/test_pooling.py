"""The pooling ops' Triton kernels against float64, with data-derived tolerances."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZES = {torch.float32: 100, torch.float64: 700, torch.bfloat16: 100}  # powers of two whose squares leave the range
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


# Whole numbers times a power of two: nothing is rounded, so that the score is the same to the bit at any size.
@pytest.mark.parametrize(("dtype", "power"), [(d, s * p) for d, p in SIZES.items() for s in (1, -1)])
@pytest.mark.parametrize("of_reference", [False, True])
def test_foreground_score_of_huge_and_of_tiny_rows(dtype, power, of_reference):
    x = (draw(9, 40, seed=5) * 16 - 6).round()
    reference = (draw(40, seed=6) * 16 - 6).round()
    size = torch.full((9, 1), 2.0**power, dtype=torch.float64)
    size[1::3] = 1
    scale = 2.0**power if of_reference else 1.0

    def run(x, reference):
        leaves = [t.to(DEVICE, dtype).requires_grad_() for t in (x, reference)]
        offsets = torch.tensor([0, 4, 9], device=DEVICE)
        seed = torch.arange(1, 10, device=DEVICE).to(dtype)
        with d2k.backends.use("triton", "foreground_score"):
            out = d2k.foreground_score(leaves[0], leaves[1], offsets=offsets, eps=2.0**-1000)
            made = [out, *torch.autograd.grad(out, leaves, seed)]
        return [t.detach().double().cpu() for t in made]

    (want, want_x, want_r), (got, got_x, got_r) = run(x, reference), run(x * size, reference * scale)
    assert torch.equal(got, want) and want.unique().numel() > 4
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # a gradient may be subnormal
    for g, w, by in ((got_x, want_x, size), (got_r, want_r, torch.tensor(scale, dtype=torch.float64))):
        assert ((g - w / by).abs() <= least + 2 * torch.finfo(dtype).eps * (w / by).abs().max(-1, True).values).all()


@pytest.mark.parametrize("size", [3e38, 1e30, 1e-30, 1e-44])
def test_foreground_score_of_one_direction(size):
    x = torch.full((5, 24), size, device=DEVICE)
    x[1::2] *= -1
    with d2k.backends.use("triton", "foreground_score"):
        got = d2k.foreground_score(x, torch.ones(24, device=DEVICE), offsets=torch.tensor([0, 5], device=DEVICE))
    cosine = 1 if size > 1 else 0  # eps replaces a tiny norm
    assert (got.cpu() - torch.tensor([0.5 - cosine / 2, 0.5 + cosine / 2] * 3)[:5]).abs().max() < 1e-6


def agree(op, run):
    """Outputs of Triton and of the reference: special values at the same places, the rest within rounding."""
    made = []
    for backend in ("triton", "reference"):
        with d2k.backends.use(backend, op):
            made.append([t.detach().cpu() for t in run()])
    for got, want in zip(*made, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("special", [NAN, float("inf"), -float("inf"), 1e-42, 3e38])
@pytest.mark.parametrize("normalize", [False, True])
def test_special_values(special, normalize):
    x, attention = draw(70, 20, seed=7).float() - 0.5, draw(70, 2, seed=8).float()
    attention[40:44] = 0.5  # a tie with the threshold
    x[[3, 33, 41], 5] = special
    attention[[20, 60], 1] = special
    offsets = torch.tensor([0, 31, 31, 70], device=DEVICE)
    reference = draw(20, seed=9).float().to(DEVICE)

    def pool():
        leaves = [t.to(DEVICE).requires_grad_() for t in (x, attention)]
        out = d2k.attention_pool(*leaves, offsets=offsets, normalize=normalize)
        seeds = [torch.ones_like(o) for o in out]
        return [*out, *torch.autograd.grad(out, leaves, seeds)]

    agree("attention_pool", pool)
    agree("lowest_attention", lambda: [d2k.lowest_attention(attention[:, 1].contiguous().to(DEVICE), offsets=offsets)])
    if special != 3e38:  # the range of the reference is not that of the kernel
        agree("foreground_score", lambda: [d2k.foreground_score(x.to(DEVICE), reference, offsets=offsets)])


@pytest.mark.parametrize("rows", [1, 16, 17])
@pytest.mark.parametrize("width", [1, 16, 40])
def test_one_sequence_alone(rows, width):
    x, attention = draw(rows, width, seed=10), (draw(rows, 1, seed=11) + 0.5).clamp(max=1)
    offsets = torch.tensor([0, rows], device=DEVICE)
    dtypes = (torch.float32, torch.float32)
    compare("attention_pool", lambda x, a: d2k.attention_pool(x, a, offsets=offsets), (x, attention), dtypes)
    if width > 1:
        reference = draw(width, seed=12) - 0.4
        compare(
            "foreground_score", lambda x, r: [d2k.foreground_score(x, r, offsets=offsets)], (x, reference), dtypes
        )
    least = attention[:, 0].float().to(DEVICE)
    agree("lowest_attention", lambda: [d2k.lowest_attention(least, offsets=offsets)])


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


@pytest.mark.parametrize("dtypes", [(d, a) for d in DTYPES for a in dict.fromkeys((d, torch.float32))])
def test_every_dtype(dtypes):
    """Empty sequences, one of one row, and one of more than a chunk, with gaps."""
    offsets, lengths, inside = packed(([0, 1, 30, 0, 129], 1))
    place = offsets.to(DEVICE), lengths.to(DEVICE)
    # Some attention lies on the threshold, and some channels of a row are 0.
    attention = (draw(len(inside), 2, seed=1) * 8).round() / 8
    x = torch.where(inside[:, None], (draw(len(inside), 40, seed=0) - 0.3).clamp(min=0).to(dtypes[0]).double(), NAN)
    selected = torch.where((attention >= 0.5).any(1, True), x, NAN)

    def pool(x, attention):
        return d2k.attention_pool(d2k.Ragged(x, *place), d2k.Ragged(attention, *place), inclusive=True, normalize=True)

    compare("attention_pool", pool, (selected, attention), dtypes)
    reference = (draw(40, seed=2) - 0.2).to(dtypes[1]).double()
    compare(
        "foreground_score", lambda x, r: [d2k.foreground_score(d2k.Ragged(x, *place), r).values], (x, reference), dtypes
    )
    lowest = attention[:, 0].to(DEVICE, dtypes[0]).contiguous()
    agree("lowest_attention", lambda: [d2k.lowest_attention(d2k.Ragged(lowest, *place))])


def test_chunks_are_folded_to_the_same_bits(monkeypatch):
    """However many levels a batch's size asks for, a sequence's sums are those of one level."""
    kernels = importlib.import_module("d2kernels.ops.attention_pool.triton")
    offsets, lengths, inside = packed(([20, 0, 300], 1))  # 38 chunks of 8 rows, more than one program adds
    place = offsets.to(DEVICE), lengths.to(DEVICE)
    x, attention = draw(len(inside), 4, seed=1).float().to(DEVICE), draw(len(inside), 1, seed=2).float().to(DEVICE)
    monkeypatch.setattr(kernels, "_CHUNK", 8)
    monkeypatch.setattr(kernels, "_ATTENTIONS", 8)

    def run(most):
        monkeypatch.setattr(kernels, "_MOST", most)
        leaves = [x.clone().requires_grad_(), attention.clone().requires_grad_()]
        with d2k.backends.use("triton", "attention_pool"):
            out = d2k.attention_pool(*(d2k.Ragged(t, *place) for t in leaves), normalize=True)
            return [*out, *torch.autograd.grad([o.sum() for o in out], leaves)]

    whole = run(kernels.FAN**2)
    parts = torch.ones(50, 1, device=DEVICE)
    assert kernels._folded(parts, *place, 322, 8)[1] == 8
    for most, chunk in ((32, 256), (1, 8192)):
        assert all(torch.equal(a, b) for a, b in zip(run(most), whole, strict=True)), most
        assert kernels._folded(parts, *place, 322, 8)[1] == chunk


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


def test_bisections_of_most_batches_are_one_form(monkeypatch):
    from d2kernels.ops import _triton

    monkeypatch.setattr(_triton, "INTERPRETED", False)
    assert {_triton.steps(n) for n in range(1, 256)} == {8}
    assert all(2 ** _triton.steps(n) > n for n in (1, 255, 256, 65_535, 65_536, 10**9))
