"""foreground_score against torch.nn.functional.cosine_similarity, one sequence at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import d2kernels as d2k
from d2kernels.ops.foreground_score import reference, schema

native_only = pytest.mark.skipif(not d2k.backends.can_run("foreground_score", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "foreground_score"):
        yield request.param


F64 = torch.float64


def batch(lengths, width=5, dtype=F64, seed=0, gap=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(s, width, generator=generator, dtype=F64).to(dtype) for s in lengths]
    return d2k.Ragged.pack(draw, gap=gap), torch.randn(width, generator=generator, dtype=F64).to(dtype)


def oracle(x, direction, eps=1e-8):
    return 0.5 * (1 - F.cosine_similarity(x, direction.reshape(1, -1), dim=1, eps=eps))


def value_and_gradients(function, *inputs):
    leaves = [t.clone().requires_grad_() for t in inputs]
    score = function(*leaves)
    # Small fractions, exact in every dtype.
    cotangent = torch.arange(score.numel()).remainder(7).sub(3.5).div(4).view(score.shape).to(score)
    return score.detach(), *torch.autograd.grad(score, leaves, cotangent)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(1, 20),
)
def test_equals_cosine_similarity(lengths, gap, seed, width):
    x, direction = batch(lengths, width, seed=seed, gap=gap)
    score = d2k.foreground_score(x, direction)
    for got, rows in zip(score.unpack(), x.unpack(), strict=True):
        torch.testing.assert_close(got, oracle(rows, direction), rtol=1e-12, atol=1e-12)
    assert score.values[~x.row_mask()].eq(0).all()


@pytest.mark.parametrize("eps", [1e-8, 0.5, 100.0])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-8, 1.0, 1e12])
def test_eps_rule_is_that_of_torch_with_gradients(eps, scale):
    x, direction = batch([6])
    x.values[:4] *= torch.tensor([0, 1e-10, 1e-8, 1.0], dtype=F64)[:, None]
    ours = value_and_gradients(
        lambda v, r: d2k.foreground_score(v, r, eps=eps, offsets=x.offsets), x.values, direction * scale
    )
    theirs = value_and_gradients(lambda v, r: oracle(v, r, eps), x.values, direction * scale)
    for got, want in zip(ours, theirs, strict=True):
        got, want = got.detach().view(len(got), -1), want.detach().view(len(want), -1)
        assert ((got - want).norm(dim=1) <= 1e-10 * want.norm(dim=1) + 1e-14).all()


def test_along_against_and_nowhere():
    x = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]])
    score = d2k.foreground_score(x, torch.tensor([[0.6, 0.8]]), offsets=torch.tensor([0, 4]))
    torch.testing.assert_close(score, torch.tensor([0.0, 1.0, 0.5, 0.5]), rtol=0, atol=1e-7)
    nowhere = d2k.foreground_score(x, torch.zeros(2), offsets=torch.tensor([0, 4]))
    assert nowhere.tolist() == [0.5] * 4


def test_three_forms_agree_with_gradients():
    x, direction = batch([4, 7, 2], gap=1)
    dense, mask = x.padded(fill=math.nan)
    want = value_and_gradients(
        lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values, direction
    )
    packed = value_and_gradients(
        lambda v, r: d2k.foreground_score(v, r, offsets=x.offsets, lengths=x.lengths), x.values, direction
    )
    assert all(torch.equal(a, b) for a, b in zip(packed, want, strict=True))
    for keywords in ({"lengths": x.lengths}, {"mask": mask}):
        score, grad_x, grad_r = value_and_gradients(
            lambda v, r, k=keywords: torch.where(mask, d2k.foreground_score(v, r, **k), 0), dense, direction
        )
        padded_score, _ = x.with_values(want[0]).padded()
        assert score.shape == (3, 7) and torch.equal(score, padded_score)
        assert d2k.foreground_score(dense, direction, **keywords)[~mask].eq(0).all()
        assert grad_x[~mask].eq(0).all() and grad_x[mask].ne(0).any() and grad_r.isfinite().all()


def test_gap_rows_take_no_part_in_the_gradients():
    x, direction = batch([4, 7], gap=2)
    dirty = x.values.masked_fill(~x.row_mask()[:, None], math.nan)
    ours = value_and_gradients(
        lambda v, r: d2k.foreground_score(x.with_values(v), r).values, dirty, direction
    )
    clean = value_and_gradients(
        lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values, direction
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, clean, strict=True))
    assert ours[1][~x.row_mask()].eq(0).all()


def test_a_nan_row_stays_by_itself():
    x, direction = batch([4, 7])
    values = x.values.clone()
    values[2] = math.nan
    score = d2k.foreground_score(x.with_values(values), direction).values
    assert score.isnan().nonzero().flatten().tolist() == [2]


def test_empty_batch_and_empty_sequence():
    x, r = torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    score = d2k.foreground_score(x, r, offsets=torch.tensor([0]))
    score.sum().backward()
    assert score.tolist() == [0, 0, 0] and x.grad.eq(0).all() and r.grad.eq(0).all()
    assert d2k.foreground_score(torch.zeros(0, 4), r, offsets=torch.tensor([0, 0, 0])).shape == (0,)
    some = d2k.foreground_score(x.detach(), r, offsets=torch.tensor([0, 0, 3]))
    torch.testing.assert_close(some, oracle(x, r))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_computes_in_float32(dtype):
    x, direction = batch([300, 17], 64, dtype)
    ours = value_and_gradients(
        lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values, direction
    )
    exact = value_and_gradients(oracle, x.values.double(), direction.double())
    for got, want in zip(ours, exact, strict=True):
        assert got.dtype == dtype
        error = (got.double() - want).norm() / want.norm()
        assert error <= 2 * (want.to(dtype).double() - want).norm() / want.norm() + 1e-6


def test_dtype_of_x_decides_that_of_the_score():
    x, direction = batch([5], dtype=torch.bfloat16)
    leaf = direction.float().requires_grad_()
    score = d2k.foreground_score(x, leaf)
    score.values.float().sum().backward()
    assert score.dtype == torch.bfloat16 and leaf.grad.dtype == torch.float32


def test_gradcheck_backward_and_reference():
    x, direction = batch([6, 11, 0, 3], gap=2)
    inputs = [x.values.masked_fill(~x.row_mask()[:, None], 1).requires_grad_(), direction.requires_grad_()]

    def ours(v, r):
        return d2k.foreground_score(x.with_values(v), r).values

    assert torch.autograd.gradcheck(ours, inputs)
    plain = value_and_gradients(lambda v, r: reference.foreground_score(v, r, x.offsets, x.lengths), *inputs)
    for got, want in zip(value_and_gradients(ours, *inputs), plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_gradient_to_one_input_only():
    x, direction = batch([6, 3])
    both = value_and_gradients(
        lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values, direction
    )
    of_x = value_and_gradients(lambda v: d2k.foreground_score(x.with_values(v), direction).values, x.values)
    of_r = value_and_gradients(lambda r: d2k.foreground_score(x, r).values, direction)
    assert torch.equal(of_x[1], both[1]) and torch.equal(of_r[1], both[2])


def test_second_derivative_raises():
    x, r = torch.randn(5, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    score = d2k.foreground_score(x, r, offsets=torch.tensor([0, 5])).square().sum()
    gradients = torch.autograd.grad(score, (x, r), create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        sum(g.square().sum() for g in gradients).backward()


def test_opcheck():
    x, direction = batch([4, 7], dtype=torch.float32, gap=1)
    arguments = (x.values, direction, x.offsets, x.lengths, 1e-8)
    torch.library.opcheck(schema.foreground_score.op, arguments)
    for need in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            schema.foreground_score_backward.op, (torch.randn(len(x.values)), *arguments, *need)
        )


@pytest.mark.parametrize("wrt", ["both", "x", "reference"])
def test_compiles_whole_with_gradients(wrt):
    x, direction = batch([4, 7], dtype=torch.float32, gap=1)

    def loss(v, r):
        return d2k.foreground_score(x.with_values(v), r).values.square().sum()

    needs = (wrt != "reference", wrt != "x")
    eager, compiled = (
        [t.clone().requires_grad_(n) for t, n in zip((x.values, direction[None]), needs, strict=True)]
        for _ in range(2)
    )
    loss(*eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*compiled).backward()
    for e, c, need in zip(eager, compiled, needs, strict=True):
        assert (e.grad is not None) == need
        if need:
            torch.testing.assert_close(e.grad, c.grad)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("width", [3, 16, 33])
def test_neighbours_do_not_matter(dtype, width):
    x, direction = batch([5, 301, 1, 30], width, dtype, gap=1)

    def run(batch):
        leaf = batch.values.clone().requires_grad_()
        score = d2k.foreground_score(batch.with_values(leaf), direction)
        score.values.square().sum().backward()
        return score.unpack(), batch.with_values(leaf.grad).unpack()

    whole = run(x)
    for i, rows in enumerate(x.unpack()):
        alone = run(d2k.Ragged.pack([rows]))
        assert torch.equal(alone[0][0], whole[0][i]) and torch.equal(alone[1][0], whole[1][i])


def test_rows_that_start_at_an_odd_address_score_the_same():
    x, direction = batch([9], 16, torch.float32)
    storage = torch.zeros(9 * 16 + 3)
    shifted = storage[3:].view(9, 16).copy_(x.values)
    got = d2k.foreground_score(shifted, direction, offsets=x.offsets)
    assert torch.equal(got, d2k.foreground_score(x, direction).values)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_the_same_bits_with_any_threads():
    x, direction = batch([9000, 0, 411, 20000], 100, torch.float32, gap=3)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(
                value_and_gradients(
                    lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values, direction
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
    exact = value_and_gradients(
        lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values.double(), direction.double()
    )
    for got, want in zip(runs[0], exact, strict=True):
        assert (got.double() - want).norm() <= 4e-7 * want.norm()


@pytest.mark.parametrize("starts", [[0, 10**9], [-(10**9), 20], [10**12, -(10**12), 10], [15, 10, 5, 0]])
@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_unchecked_offsets_touch_no_foreign_memory(starts):
    x, r, offsets = torch.ones(20, 3), torch.ones(3), torch.tensor(starts)
    arguments = (x, r, offsets, torch.full((len(starts) - 1,), 10**9), 1e-8)
    score = schema.foreground_score(*arguments)
    grads = schema.foreground_score_backward(torch.ones(20), *arguments, True, True)
    assert score.abs().max() <= 1e-6 and all(g.isfinite().all() for g in grads)


def test_the_same_bits_on_every_run():
    x, direction = batch([375] * 4, 64, torch.float32)
    runs = [
        value_and_gradients(
            lambda v, r: d2k.foreground_score(x.with_values(v), r).values, x.values, direction
        )
        for _ in range(3)
    ]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize(
    ("x", "direction", "kwargs", "error", "says"),
    [
        (
            torch.zeros(4, 3),
            torch.zeros(4),
            {},
            ValueError,
            r"reference must be float with shape \(3,\) or \(1, 3\)",
        ),
        (
            torch.zeros(4, 3),
            torch.zeros(2, 3),
            {},
            ValueError,
            r"reference must be.*got torch.float32 \(2, 3\)",
        ),
        (torch.zeros(4, 3), torch.zeros(3).int(), {}, ValueError, "reference must be float.*int32"),
        (torch.zeros(4, 3), [0, 0, 1], {}, TypeError, "reference must be a tensor, got list"),
        (torch.zeros(4), torch.zeros(3), {}, ValueError, r"x must be float rows \(total, D\)"),
        (torch.zeros(4, 3).long(), torch.zeros(3), {}, ValueError, "x must be float rows.*int64"),
        (torch.zeros(4, 3), torch.zeros(3), {"eps": -1.0}, ValueError, "eps must be at least 0, got -1.0"),
        (torch.zeros(4, 3), torch.zeros(3), {"eps": math.nan}, ValueError, "eps must be at least 0, got nan"),
    ],
)
def test_errors_name_the_argument(x, direction, kwargs, error, says):
    with pytest.raises(error, match=says):
        d2k.foreground_score(x, direction, offsets=torch.tensor([0, 4]), **kwargs)


RANGE = {
    torch.float32: (-125, 122),
    torch.bfloat16: (-125, 122),
    torch.float16: (-10, 13),
    torch.float64: (-1020, 1018),
}


@settings(max_examples=60)
@given(st.sampled_from(list(RANGE)), st.data())
def test_the_score_does_not_depend_on_the_size_of_rows_or_reference(dtype, data):
    """Where squares leave the range of the type, or vanish in it; gradients are divided by the size."""
    powers = [data.draw(st.integers(*RANGE[dtype])) for _ in range(2)]
    x, direction = batch([4, 7], width=37, dtype=torch.float64)
    # Powers of two: eight bits of every number, so that nothing is rounded on the way.
    values, direction = ((v * 128).round().clamp(-127, 127) / 128 for v in (x.values, direction))

    def scored(a, b):
        rows, ahead = (values * 2.0**a).to(dtype), (direction * 2.0**b).to(dtype)
        return value_and_gradients(lambda v, r: d2k.foreground_score(x.with_values(v), r, eps=0).values, rows, ahead)

    (score, grad_x, grad_r), (want, of_x, of_r) = scored(*powers), scored(0, 0)
    assert bool(want.isfinite().all())
    close(score, want, dtype)
    low, high = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    for got, plain, power in ((grad_x, of_x, powers[0]), (grad_r, of_r, powers[1])):
        exact = plain.double() * 2.0**-power
        held = (exact.abs() > 1e3 * low) & (exact.abs() < high / 2)
        assert bool(got[~held & (exact.abs() < 1)].isfinite().all())
        close(got[held].double() * 2.0**power, plain[held].double(), dtype)


def close(a, b, dtype):
    error = torch.linalg.vector_norm((a - b).double()) if len(a) else torch.zeros(())
    assert float(error) <= 8 * max(torch.finfo(dtype).eps, 1e-15) * float(torch.linalg.vector_norm(b.double()))


def test_the_smallest_rows_there_are():
    for dtype, least in ((torch.float32, 2.0**-149), (torch.float64, 2.0**-1074)):
        x = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [-3.0, -4.0]], dtype=torch.float64).mul(least).to(dtype)
        score = d2k.foreground_score(x, torch.tensor([3.0, 4.0], dtype=dtype), eps=0, offsets=torch.tensor([0, 3]))
        assert score.tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)
        assert d2k.foreground_score(x, x[0] * 2, offsets=torch.tensor([0, 3])).tolist() == pytest.approx([0.5] * 3)
