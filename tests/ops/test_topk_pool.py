"""topk_pool against torch.topk and its own closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.topk_pool import reference, schema

native_only = pytest.mark.skipif(not d2k.backends.can_run("topk_pool", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "topk_pool"):
        yield request.param


def batch(lengths, channels=4, dtype=torch.float64, seed=0, gap=0):
    generator = torch.Generator().manual_seed(seed)
    return d2k.Ragged.pack(
        [torch.randn(s, channels, generator=generator, dtype=torch.float64).to(dtype) for s in lengths], gap=gap
    )


def oracle(ragged, k_of):
    return torch.stack(
        [
            x.double().topk(k_of(len(x)), dim=0).values.mean(0) if len(x) else torch.zeros(x.shape[1]).double()
            for x in ragged.unpack()
        ]
    )


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 5), st.integers(1, 9))
def test_equals_torch_topk(lengths, gap, seed, divisor):
    x = batch(lengths, seed=seed, gap=gap)
    got = d2k.topk_pool(x, divisor=divisor)
    torch.testing.assert_close(got, oracle(x, lambda s: -(-s // divisor)), rtol=1e-12, atol=1e-12)


def test_k_of_every_kind():
    x = batch([5, 9, 1])
    torch.testing.assert_close(d2k.topk_pool(x, k=3), oracle(x, lambda s: min(3, s)))
    per_sequence = d2k.topk_pool(x, k=torch.tensor([1, 4, 7]))
    want = torch.stack([s.topk(k, 0).values.mean(0) for s, k in zip(x.unpack(), (1, 4, 1), strict=True)])
    torch.testing.assert_close(per_sequence, want)
    floor = d2k.topk_pool(x, divisor=4, rounding="floor")
    torch.testing.assert_close(floor, oracle(x, lambda s: max(1, s // 4)))


def test_three_forms_agree():
    x = batch([4, 7, 2], gap=1)
    dense, mask = x.padded(fill=float("nan"))
    want = d2k.topk_pool(x)
    for got in (
        d2k.topk_pool(x.values, offsets=x.offsets, lengths=x.lengths),
        d2k.topk_pool(dense, lengths=x.lengths),
        d2k.topk_pool(dense, mask=mask),
    ):
        assert torch.equal(got, want)


def test_ties_share_the_gradient():
    x = torch.tensor([[1.0], [3.0], [2.0], [2.0], [2.0], [0.0]], requires_grad=True)
    out = d2k.topk_pool(x, k=3, offsets=torch.tensor([0, 6]))
    assert out.item() == pytest.approx(7 / 3)
    out.backward()
    third = 1 / 3
    torch.testing.assert_close(x.grad[:, 0], torch.tensor([0, third, 2 * third / 3, 2 * third / 3, 2 * third / 3, 0]))


def test_nan_sorts_first_and_zero_signs_tie():
    nan = float("nan")
    x = torch.tensor([[1.0, 0.0], [nan, -0.0], [2.0, -1.0]], requires_grad=True)
    out = d2k.topk_pool(x, k=1, offsets=torch.tensor([0, 3]))
    assert out[0, 0].isnan() and out[0, 1] == 0
    out[:, 1].sum().backward()
    assert x.grad[:, 1].tolist() == [0.5, 0.5, 0]


def test_empty_batch_and_empty_sequence():
    assert d2k.topk_pool(torch.zeros(0, 3), offsets=torch.tensor([0])).shape == (0, 3)
    x = torch.randn(2, 3, requires_grad=True)
    out = d2k.topk_pool(x, offsets=torch.tensor([0, 0, 2]))
    assert torch.equal(out[0], torch.zeros(3))
    out.sum().backward()
    assert x.grad.sum() == pytest.approx(3)


def test_gap_rows_neither_count_nor_get_a_gradient():
    values = torch.tensor([[9.0], [1.0], [2.0], [9.0]], requires_grad=True)
    out = d2k.topk_pool(values, k=1, offsets=torch.tensor([1, 4]), lengths=torch.tensor([2]))
    out.sum().backward()
    assert out.item() == 2 and values.grad[:, 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_accumulates_in_float32(dtype):
    x = batch([300, 17], dtype=dtype)
    want = oracle(x, lambda s: -(-s // 8))
    error = (d2k.topk_pool(x).double() - want).norm() / want.norm()
    assert error <= (want.to(dtype).double() - want).norm() / want.norm() * 1.01 + 1e-6


def test_gradcheck_backward_and_reference():
    x = batch([6, 11, 3], gap=2)
    values = x.values.clone().requires_grad_()
    k = torch.tensor([2, 3, 1])
    assert torch.autograd.gradcheck(lambda v: d2k.topk_pool(x.with_values(v), k=k), values)
    g = torch.randn(3, 4, dtype=torch.float64)
    ours = torch.autograd.grad(d2k.topk_pool(x.with_values(values), k=k), values, g)[0]
    theirs = torch.autograd.grad(reference.topk_pool(values, x.offsets, x.lengths, k), values, g)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_second_derivative_raises():
    x = torch.randn(5, 2, requires_grad=True)
    out = d2k.topk_pool(x, offsets=torch.tensor([0, 5])).square().sum()
    (g,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        (g.square().sum() + x.sum()).backward()


def test_opcheck():
    x = batch([4, 7], dtype=torch.float32)
    k = torch.tensor([1, 2])
    torch.library.opcheck(schema.topk_pool.op, (x.values, x.offsets, x.lengths, k))
    saved = schema.topk_pool(x.values, x.offsets, x.lengths, k)
    backward = (torch.randn(2, 4), x.values, x.offsets, x.lengths, k, *saved[1:])
    torch.library.opcheck(schema.topk_pool_backward.op, backward)


def test_compiles_whole_with_gradients():
    x = batch([4, 7], dtype=torch.float32)

    def loss(values):
        return d2k.topk_pool(x.with_values(values), divisor=3).square().sum()

    a, b = (x.values.clone().requires_grad_() for _ in range(2))
    loss(a).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(b).backward()
    torch.testing.assert_close(a.grad, b.grad)


# Few values, so that most tie, or many; NaN and infinities among them.
def scores(rows, classes, kind, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    if kind == "tied":
        x = (x * 2).round() / 2
    elif kind == "saturated":
        x = (x * 25).sigmoid()
    elif kind == "relu":
        x = (x - 1).relu()
    elif kind == "magnitudes":
        x = (x * 12).exp() * x.sign()
    elif kind == "special":
        pick = torch.randint(0, 40, x.shape, generator=generator)
        for i, value in enumerate((float("nan"), float("inf"), -float("inf"), 0.0, -0.0)):
            x = x.masked_fill(pick == i, value)
    return x.to(dtype)


def column_oracle(x, k):
    """Threshold, above and tied of one column, and the exact mean."""
    ordered = sorted(x.double().tolist(), key=lambda v: (v != v, v), reverse=True)
    edge = ordered[k - 1]
    above = sum((v != v and edge == edge) or v > edge for v in ordered)
    tied = sum(v == edge or (v != v and edge != edge) for v in ordered)
    return edge, above, tied, sum(ordered[:k]) / k


@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=3),
    st.sampled_from([1, 2, 5, 20, 33]),
    st.sampled_from(["random", "tied", "saturated", "relu", "magnitudes", "special"]),
    st.sampled_from(FLOATS),
    st.integers(0, 2),
    st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_threshold_and_counts_are_exact(lengths, classes, kind, dtype, gap, seed):
    x = d2k.Ragged.pack([scores(s, classes, kind, seed + i, dtype) for i, s in enumerate(lengths)], gap=gap)
    dirty = x.values.masked_fill(~x.row_mask()[:, None], float("nan"))
    k = torch.tensor([max(1, (seed * (i + 7)) % (s + 1)) for i, s in enumerate(lengths)])
    mean, threshold, above, tied = schema.topk_pool(dirty, x.offsets, x.lengths, k)
    for i, rows in enumerate(x.unpack()):
        for c in range(classes if len(rows) else 0):
            edge, n_above, n_tied, want = column_oracle(rows[:, c], int(k[i]))
            got = threshold[i, c].item()
            assert got == edge or (got != got and edge != edge)
            assert (above[i, c], tied[i, c]) == (n_above, n_tied)
            want = torch.tensor(want, dtype=torch.float64).to(dtype)
            scale = rows[:, c].double().abs().nan_to_num(0, 0, 0).max().item()
            assert torch.allclose(mean[i, c], want, rtol=4 * torch.finfo(dtype).eps, atol=1e-6 * scale, equal_nan=True)
    grad = torch.ones_like(mean)
    arguments = (x.offsets, x.lengths, k, threshold, above, tied)
    got = schema.topk_pool_backward(grad, dirty, *arguments)
    want = reference.topk_pool_backward(grad.double(), dirty.double(), *arguments[:3], threshold.double(), above, tied)
    torch.testing.assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "classes"), [(20000, 1), (12000, 20), (3000, 130), (70000, 3)])
def test_long_sequences(rows, classes, dtype):
    for kind in ("random", "tied", "saturated"):
        x = scores(rows, classes, kind, 3, dtype)
        arguments = (x, torch.tensor([0, rows]), torch.tensor([rows]), torch.tensor([-(-rows // 8)]))
        got, want = schema.topk_pool(*arguments), reference.topk_pool_forward(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(got[1:], want[1:], strict=True))
        exact = reference.topk_pool_forward(x.double(), *arguments[1:])[0]
        assert (got[0].double() - exact).norm() <= torch.finfo(dtype).eps * exact.norm() + 1e-12


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_the_same_bits_with_any_threads_and_neighbours():
    x = batch([1300, 200, 0, 750, 35, 9000, 14000], channels=70, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            leaf = x.values.clone().requires_grad_()
            out = d2k.topk_pool(x.with_values(leaf))
            (grad,) = torch.autograd.grad(out.square().sum(), leaf)
            results.append((out, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    for i, rows in enumerate(x.unpack()):
        assert torch.equal(d2k.topk_pool(d2k.Ragged.pack([rows]))[0], results[0][0][i])


def test_strided_scores():
    wide = batch([40, 300], channels=12).values
    offsets = torch.tensor([0, 40, 340])
    for x in (wide[:, ::2], wide.t().contiguous().t(), wide[:, :1].expand(-1, 3)):
        want = d2k.topk_pool(x.contiguous(), offsets=offsets)
        assert torch.equal(d2k.topk_pool(x, offsets=offsets), want)
        leaf = wide.clone().requires_grad_()
        d2k.topk_pool(leaf[:, ::2], offsets=offsets).sum().backward()
        assert leaf.grad[:, 1::2].eq(0).all() and leaf.grad.sum() == pytest.approx(12)


@pytest.mark.parametrize("starts", [[0, 10**9], [-(10**9), 20], [10**12, -(10**12), 10], [15, 10, 5, 0]])
@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_unchecked_offsets_touch_no_foreign_memory(starts):
    x, offsets = torch.ones(20, 3), torch.tensor(starts)
    lengths = torch.full((len(starts) - 1,), 10**9)
    for k in (-5, 10**12):
        k = torch.full_like(lengths, k)
        saved = schema.topk_pool(x, offsets, lengths, k)
        grad = schema.topk_pool_backward(saved[0], x, offsets, lengths, k, *saved[1:])
        assert ((saved[0] == 0) | (saved[0] == 1)).all() and grad.isfinite().all()


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"rounding": "up"}, "rounding must be 'ceil' or 'floor', got 'up'"),
        ({"divisor": 0}, "divisor must be at least 1"),
        ({"k": torch.ones(5, dtype=torch.int64)}, "integer tensor of shape"),
    ],
)
def test_errors_name_the_argument(kwargs, says):
    with pytest.raises(ValueError, match=says):
        d2k.topk_pool(batch([4, 7]), **kwargs)


def indices_of(x, k):
    """By a stable sort: falling score, then row; NaN first."""
    key = torch.where(x.isnan(), float("inf"), x.double())
    nan = x.isnan().long()
    order = torch.stack(
        [torch.tensor(sorted(range(len(x)), key=lambda t, c=c: (-nan[t, c], -key[t, c], t))) for c in range(x.shape[1])]
    )
    return order[:, :k]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("gap", [0, 2])
def test_indices_are_by_score_and_then_by_row(dtype, gap):
    x = batch([9, 1, 17, 4], dtype=dtype, gap=gap)
    values = (x.values * 2).round() / 2  # ties
    values[x.offsets[2] + 5, 1] = values[x.offsets[2] + 2, 1] = float("nan")
    values[x.offsets[2] + 1, 2] = -0.0
    x = x.with_values(values)
    k = torch.tensor([4, 3, 2, 9])
    mean, found = d2k.topk_pool(x, k=k, return_indices=True)
    assert found.shape == (4, 4, 4) and found.dtype == torch.int64
    for row, sequence, n in zip(found, x.unpack(), (4, 1, 2, 4), strict=True):
        assert torch.equal(row[:, :n], indices_of(sequence, n)) and (row[:, n:] == -1).all()
        ours = sequence.double().gather(0, row[:, :n].t()).mean(0)
        torch.testing.assert_close(ours.to(dtype), mean[len(mean) - 4 + [9, 1, 17, 4].index(len(sequence))],
                                   equal_nan=True, rtol=2e-2, atol=1e-2)  # fmt: skip
    assert torch.equal(d2k.topk_pool(x, k=k).nan_to_num(7.0), mean.nan_to_num(7.0))


def test_indices_of_nothing_and_opcheck():
    x = torch.randn(3, 2, requires_grad=True)
    mean, found = d2k.topk_pool(x, k=5, offsets=torch.tensor([0, 0, 3]), return_indices=True)
    assert found.shape == (2, 2, 3) and (found[0] == -1).all() and not found.requires_grad and mean.requires_grad
    mean, found = d2k.topk_pool(torch.zeros(0, 2), offsets=torch.tensor([0]), return_indices=True)
    assert mean.shape == (0, 2) and found.shape == (0, 2, 0)
    given = x.detach(), torch.tensor([0, 1, 3]), torch.tensor([1, 2]), torch.tensor([1, 2]), 2
    torch.library.opcheck(torch.ops.d2k.topk_indices, given)
    with pytest.raises((TypeError, ValueError), match="return_indices"):
        d2k.topk_pool(x, offsets=torch.tensor([0, 3]), return_indices=1)


def test_the_k_of_the_caller_may_change_before_the_backward():
    scores, k = torch.randn(9, 2, requires_grad=True), torch.tensor([2, 3])
    pooled = d2k.topk_pool(scores, k=k, offsets=torch.tensor([0, 4, 9]))
    (want,) = torch.autograd.grad(pooled.sum(), scores, retain_graph=True)
    k.fill_(1)
    assert torch.equal(torch.autograd.grad(pooled.sum(), scores)[0], want)
