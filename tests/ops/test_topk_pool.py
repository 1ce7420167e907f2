"""topk_pool against torch.topk and its own closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.topk_pool import reference, schema


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
    torch.library.opcheck(schema.topk_pool, (x.values, x.offsets, x.lengths, k))
    saved = schema.topk_pool(x.values, x.offsets, x.lengths, k)
    torch.library.opcheck(schema.topk_pool_backward, (torch.randn(2, 4), x.values, x.offsets, x.lengths, k, *saved[1:]))


def test_compiles_whole_with_gradients():
    x = batch([4, 7], dtype=torch.float32)

    def loss(values):
        return d2k.topk_pool(x.with_values(values), divisor=3).square().sum()

    a, b = (x.values.clone().requires_grad_() for _ in range(2))
    loss(a).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(b).backward()
    torch.testing.assert_close(a.grad, b.grad)


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
