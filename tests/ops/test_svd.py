"""svd against its own factors, torch.linalg and numerical gradients."""

from __future__ import annotations

import contextlib
import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.svd import reference, schema

SHAPES = [(3, 5, 3), (3, 3, 5), (2, 4, 4), (4, 1, 1), (2, 1, 6), (2, 6, 1), (1, 128, 128), (2, 128, 7)]
native_only = pytest.mark.skipif(not d2k.backends.can_run("svd", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "svd"):
        yield request.param



def matrices(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_singular_values(m, n, s, seed=0):
    k = len(s)
    u = torch.linalg.qr(matrices(m, k, seed=seed)).Q
    v = torch.linalg.qr(matrices(n, k, seed=seed + 1)).Q
    return (u * torch.tensor(s, dtype=torch.float64)) @ v.T


@pytest.mark.parametrize("shape", SHAPES)
def test_factors(shape):
    a = matrices(*shape)
    u, s, vh = d2k.svd(a)
    k = min(shape[1:])
    assert (u.shape, s.shape, vh.shape) == ((*shape[:2], k), (shape[0], k), (shape[0], k, shape[2]))
    eye = torch.eye(k, dtype=torch.float64).expand(shape[0], k, k)
    got = ((u * s[:, None]) @ vh, u.mT @ u, vh @ vh.mT, s)
    torch.testing.assert_close(got, (a, eye, eye, torch.linalg.svdvals(a)), rtol=1e-11, atol=1e-12 * max(shape))
    assert (s >= 0).all() and (s.diff() <= 0).all()
    torch.testing.assert_close(d2k.svdvals(a), s, rtol=1e-11, atol=1e-12 * max(shape))  # by another algorithm


@pytest.mark.parametrize("batch", [(), (0,), (2, 3), (2, 0)])
def test_any_leading_shape(batch):
    a = matrices(*batch, 4, 3).requires_grad_()
    u, s, vh = d2k.svd(a)
    assert (u.shape, s.shape, vh.shape) == ((*batch, 4, 3), (*batch, 3), (*batch, 3, 3))
    torch.testing.assert_close((u * s[..., None, :]) @ vh, a)
    assert d2k.svdvals(a).shape == (*batch, 3)
    (g,) = torch.autograd.grad(d2k.svdvals(a).square().sum(), a)
    torch.testing.assert_close(g, 2 * a)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4), (2, 3, 3), (3, 1, 1), (2, 1, 3)])
def test_gradcheck(shape):
    a = matrices(*shape, seed=3).requires_grad_()
    weight = matrices(shape[0], min(shape[1:]), seed=4)
    tall, wide = matrices(shape[1], shape[1], seed=5), matrices(shape[2], shape[2], seed=6)

    def of_s(x):
        return (d2k.svdvals(x).sin() * weight).sum(1)

    def of_u(x):
        u = d2k.svd(x).U
        return ((u * weight[:, None]) @ u.mT * tall).sum((1, 2))

    def of_v(x):
        vh = d2k.svd(x).Vh
        return (vh.mT @ (weight[:, :, None] * vh) * wide).sum((1, 2))

    def of_all(x):
        u, s, vh = d2k.svd(x)
        return (u * (s.square() * weight)[:, None]) @ vh

    for f in (of_s, of_u, of_v, of_all):
        assert torch.autograd.gradcheck(f, a)


def test_backward_equals_the_references():
    a = matrices(3, 5, 4).requires_grad_()
    g = [matrices(3, 5, 5), matrices(3, 4), matrices(3, 4, 4)]

    def loss(u, s, vh):
        return (u @ u.mT * g[0]).sum() + (s * g[1]).sum() + (vh.mT @ (s[..., None] * vh) * g[2]).sum()

    ours, theirs = (torch.autograd.grad(loss(*f(a)), a)[0] for f in (d2k.svd, reference.svd))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def factors(shape, dtype, seed=0):
    """U, S, Vh of a random matrix, with a value that is repeated and one that is 0, and a gradient of each."""
    made = list(torch.linalg.svd(matrices(*shape, seed=seed), full_matrices=False))
    if made[1].shape[1] > 3:
        made[1][:, 1] = made[1][:, 2]
        made[1][:, -1] = 0
    saved = [x.to(dtype) for x in made]
    return saved, [matrices(*x.shape, dtype=dtype, seed=seed + 1 + i) for i, x in enumerate(saved)]


def relative(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-300)).item()


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 2), (3, 2, 2), (2, 9, 5), (2, 17, 33), (1, 40, 36)])
def test_native_backward_is_the_references(backend, shape, dtype):
    saved, grads = factors(shape, dtype)
    bound = {torch.float64: 1e-13, torch.float32: 3e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    for asked in itertools.product((False, True), repeat=3):
        some = [g if there else None for g, there in zip(grads, asked, strict=True)]
        if not any(asked):
            continue
        want = reference.svd_backward(*some, *saved)
        got = schema.svd_backward(*some, *saved)
        assert got.dtype == dtype and got.shape == shape
        assert relative(got, want) <= bound, asked


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("apart", [8, 12])
def test_values_are_repeated_by_the_rounding_of_what_they_are_computed_in(dtype, apart):
    """16-bit values in float32's rounding, whatever kernels compute in: 10 units of the largest value."""
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    u, vh = torch.eye(2, dtype=dtype)[None], torch.eye(2, dtype=dtype)[None]
    s = torch.tensor([[1.0, apart * eps]]).to(dtype)
    g = torch.ones(1, 2, 1, dtype=dtype)
    tall = torch.eye(3, 2, dtype=dtype)[None]
    grad = schema.svd_backward(torch.ones_like(tall), None, None, tall, s, vh)
    assert (grad[0, 2, 1] != 0) == (apart > 10)  # outside the span, over the smaller value
    s = torch.tensor([[1.0, 1.0 - apart * eps]], dtype=torch.float64).to(dtype)
    grad = schema.svd_backward(g * torch.tensor([1, 0], dtype=dtype), None, None, u, s, vh)
    told_apart = apart > 10 and dtype in (torch.float64, torch.float32)  # else the same number
    assert bool((grad[0] != 0).any()) == told_apart


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4), (2, 3, 3), (1, 40, 36)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_matrix(backend, shape, value):
    saved, grads = factors((3, *shape[1:]), torch.float64)
    clean = schema.svd_backward(*grads, *saved)
    for i in range(6):
        all_six = [x.clone() for x in (*grads, *saved)]
        all_six[i][(1, *[0] * (all_six[i].dim() - 1))] = value
        got = schema.svd_backward(*all_six)
        assert torch.equal(got[::2], clean[::2]) and not got[1].isfinite().all(), i
        assert torch.equal(got[1].isfinite(), reference.svd_backward(*all_six)[1].isfinite()), i


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("shape", [(203, 2, 2), (203, 5, 3), (203, 4, 9), (37, 20, 20)])
def test_native_gradients_depend_on_no_neighbour_and_no_thread(backend, shape):
    saved, grads = factors(shape, torch.float64)
    whole = schema.svd_backward(*grads, *saved)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        again = schema.svd_backward(*grads, *saved)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole, again)
    for rows in (slice(0, 1), slice(9, 12), slice(len(whole) - 1, None)):
        assert torch.equal(schema.svd_backward(*[x[rows] for x in (*grads, *saved)]), whole[rows])


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([(1, 1), (3, 5), (6, 6), (7, 3)]), st.integers(-1000, 1000), st.integers(0, 10**6))
def test_a_power_of_two_divides_the_gradient_of_vectors(backend, shape, power, seed):
    (u, s, vh), (grad_u, grad_s, grad_vh) = factors((2, *shape), torch.float64, seed)
    one = schema.svd_backward(grad_u, None, grad_vh, u, s, vh)
    up = 2.0 ** (power // 2), 2.0 ** (power - power // 2)
    got = schema.svd_backward(grad_u, None, grad_vh, u, s * up[0] * up[1], vh)
    torch.testing.assert_close(got * up[0] * up[1], one, rtol=1e-14, atol=1e-300)
    # That of values does not depend on them, and is not lost beside the others.
    values = schema.svd_backward(None, grad_s, None, u, s, vh)
    assert torch.equal(schema.svd_backward(None, grad_s, None, u, s * up[0] * up[1], vh), values)
    if power > 60:
        both = schema.svd_backward(grad_u, grad_s, grad_vh, u, s * up[0] * up[1], vh)
        torch.testing.assert_close(both, values + got, rtol=1e-12, atol=1e-12)


def test_strided_gradients():
    saved, grads = factors((2, 6, 4), torch.float64)
    turned = [g.transpose(-1, 0).contiguous().transpose(-1, 0) for g in grads]
    spread = [g[:1, :1].expand_as(g) for g in grads]
    for some in (turned, spread):
        got = schema.svd_backward(*some, *saved)
        torch.testing.assert_close(got, schema.svd_backward(*[g.contiguous() for g in some], *saved), rtol=0, atol=0)


@pytest.mark.parametrize("s", [(2.0, 2.0, 1.0), (1.0, 1.0, 1.0), (3.0, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_repeated_singular_values_have_finite_gradients(s):
    a = with_singular_values(5, 3, s).requires_grad_()
    u, sigma, vh = d2k.svd(a)
    (g,) = torch.autograd.grad((u.sum() + vh.sin().sum() + sigma.sum()), a)
    assert g.isfinite().all()
    (g,) = torch.autograd.grad(d2k.svdvals(a).square().sum(), a)
    torch.testing.assert_close(g, 2 * a.detach(), rtol=1e-12, atol=1e-12)


def test_repeated_singular_values_keep_the_defined_gradients():
    a = with_singular_values(3, 3, (2.0, 2.0, 1.0)).requires_grad_()
    weight = matrices(3, 3)

    def projection(x):
        u = d2k.svd(x).U[:, :2]
        return u @ u.T

    (g,) = torch.autograd.grad((projection(a) * weight).sum(), a)
    step, h = matrices(3, 3, seed=9), 1e-6
    numeric = ((projection(a + h * step) - projection(a - h * step)) * weight).sum() / (2 * h)
    torch.testing.assert_close((g * step).sum(), numeric.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("s", [(1.0, 1e-4, 1e-5), (1.0, 1e-7, 1e-8), (1.0, 1e-9, 1e-10)])
def test_small_distinct_singular_values_are_not_repeated(s):
    a = torch.diag(torch.tensor(s, dtype=torch.float64)).requires_grad_()
    u = d2k.svd(a).U
    (g,) = torch.autograd.grad(u[1, 1] * u[2, 1], a)
    # d u₂ = u₃ (σ₂ dA₃₂ + σ₃ dA₂₃) / (σ₂² − σ₃²)
    scale = s[1] ** 2 - s[2] ** 2
    torch.testing.assert_close(g[2, 1].item(), s[1] / scale, rtol=1e-5, atol=0)
    torch.testing.assert_close(g[1, 2].item(), s[2] / scale, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_decomposes_in_float32(dtype):
    a = matrices(2, 9, 5, dtype=dtype)
    want = torch.linalg.svdvals(a.double())
    x = a.clone().requires_grad_()
    u, s, vh = d2k.svd(x)
    assert u.dtype == s.dtype == vh.dtype == dtype
    error = (s.double() - want).norm() / want.norm()
    assert error <= (want.to(dtype).double() - want).norm() / want.norm() * 1.01 + 1e-6
    (g,) = torch.autograd.grad(s.sum(), x)
    exact = torch.linalg.svd(a.double(), full_matrices=False)
    exact = exact.U @ exact.Vh
    # Both factors were rounded before their product was.
    rounding = (exact.to(dtype).double() - exact).norm() / exact.norm()
    assert g.dtype == dtype and (g.double() - exact).norm() / exact.norm() <= 3 * rounding + 1e-6


def test_matrices_of_a_batch_are_independent_and_runs_repeat():
    a = matrices(5, 6, 4)
    whole, again = d2k.svd(a), d2k.svd(a)
    for i in range(5):
        for one, two, three in zip(d2k.svd(a[i]), whole, again, strict=True):
            assert torch.equal(one, two[i]) and torch.equal(two, three)


def test_second_derivative_raises():
    a = matrices(3, 3).requires_grad_()
    (g,) = torch.autograd.grad(d2k.svdvals(a).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        (g.square().sum() + a.sum()).backward()


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4)])
def test_opcheck(shape):
    a = matrices(*shape, dtype=torch.float32)
    torch.library.opcheck(schema.svd.op, (a,))
    saved = schema.svd(a)
    grads = [torch.randn_like(t) for t in saved]
    for g in (grads, (None, grads[1], None), (grads[0], None, None), (None, None, grads[2])):
        torch.library.opcheck(schema.svd_backward.op, (*g, *saved))


def test_compiles_whole_with_gradients():
    def loss(x):
        u, s, vh = d2k.svd(x)
        return ((u * s.exp()[:, None]) @ vh).square().sum() + d2k.svdvals(x).sum()

    a, b = (matrices(2, 4, 3).requires_grad_() for _ in range(2))
    loss(a).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(b).backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 3), (2, 40, 40)])
def test_nan_raises_and_infinity_is_not_silent(shape):
    a = matrices(*shape)
    a[1, 0, 0] = float("nan")
    with pytest.raises(torch.linalg.LinAlgError):
        d2k.svd(a)
    a[1, 0, 0] = float("inf")
    with contextlib.suppress(torch.linalg.LinAlgError):
        s = d2k.svdvals(a)
        assert not s[1].isfinite().any() and s[0].isfinite().all()


def hard(name, m=6, n=5):
    """Matrices whose singular values are easy to get wrong."""
    fall = torch.logspace(0, -14, min(m, n), dtype=torch.float64).tolist()
    return {
        "graded": torch.logspace(0, -12, m, dtype=torch.float64)[:, None] * matrices(m, n),
        "ill-conditioned": with_singular_values(m, n, fall),
        "deficient": matrices(m, 2) @ matrices(2, n, seed=1),
        "repeated columns": matrices(m, 1).expand(m, n).clone(),
        "zero": torch.zeros(m, n, dtype=torch.float64),
        "repeated values": with_singular_values(m, n, [2.0, 2, 1, 1, 1][: min(m, n)]),
        "denormal": matrices(m, n) * 2.0**-1060,
        "huge": matrices(m, n) * 1e300,
    }[name]


HARD = ["graded", "ill-conditioned", "deficient", "repeated columns", "zero", "repeated values", "denormal", "huge"]


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (5, 5), (1, 5), (5, 1), (2, 2), (70, 65)])
def test_singular_values_of_hard_matrices_to_forty_digits(name, shape):
    a = hard(name, *shape)
    u, s, vh = d2k.svd(a)
    largest = a.abs().max().item()
    if min(shape) < 10:
        with mpmath.workdps(40):
            want = mpmath.svd_r(mpmath.matrix(a.tolist()), compute_uv=False)
            want = sorted((float(x) for x in want[: min(shape)]), reverse=True)
        assert s.tolist() == pytest.approx(want, rel=0, abs=1e-14 * want[0] + 2.0**-1073)
    # Back in range, where the product neither overflows nor rounds to a denormal.
    scale = 1.0 if largest == 0 else 2.0 ** -max(-1000, min(1000, math.frexp(largest)[1]))
    product = (u * (s * scale)[None]) @ vh
    rounding = 1e-14 * largest * scale + 2.0**-1074 * scale
    assert (product - a * scale).abs().max() <= max(shape) * rounding
    eye = torch.eye(min(shape), dtype=torch.float64)
    torch.testing.assert_close((u.mT @ u, vh @ vh.mT), (eye, eye), rtol=0, atol=2e-14 * max(shape))


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 11), st.integers(1, 14), st.integers(1, 14), st.integers(0, 99), st.integers(0, 14))
def test_native_factors_of_any_shape_and_rank(backend, batch, m, n, seed, rank):
    a = matrices(batch, m, min(rank, m, n), seed=seed) @ matrices(batch, min(rank, m, n), n, seed=seed + 1)
    u, s, vh = d2k.svd(a)
    k = min(m, n)
    eye = torch.eye(k, dtype=torch.float64).expand(batch, k, k)
    got = ((u * s[:, None]) @ vh, u.mT @ u, vh @ vh.mT, s)
    want = (a, eye, eye, torch.linalg.svdvals(a))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13 * max(1.0, s.abs().max().item()))


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("shape", [(203, 2, 2), (203, 5, 3), (203, 4, 9), (37, 20, 20)])
def test_native_bits_depend_on_no_neighbour_and_no_thread(backend, shape):
    a = matrices(*shape)
    a[5] = 0
    a[11, :, 1] = a[11, :, 0]
    whole = d2k.svd(a)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        again = d2k.svd(a)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))
    for rows in (slice(0, 1), slice(5, 6), slice(9, 12), slice(3, 12), slice(len(a) - 1, None)):
        assert all(torch.equal(x, y[rows]) for x, y in zip(d2k.svd(a[rows]), whole, strict=True))


@pytest.mark.parametrize(("op", "name"), [(d2k.svd, "svd"), (d2k.svdvals, "svdvals")])
@pytest.mark.parametrize(
    ("a", "error", "says"),
    [
        (torch.zeros(129, 2), ValueError, r"1 × 1 to 128 × 128, got \(129, 2\)"),
        (torch.zeros(2, 2, 129), ValueError, r"got \(2, 2, 129\)"),
        (torch.zeros(3, 0), ValueError, r"got \(3, 0\)"),
        (torch.zeros(3), ValueError, r"a must be float .* got torch.float32 \(3,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, "got torch.int64"),
        ([[1.0]], TypeError, "a must be a tensor, got list"),
    ],
)
def test_errors_name_the_argument(op, name, a, error, says):
    with pytest.raises(error, match=f"^{name}: .*{says}"):
        op(a)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(1, 1), (3, 5), (6, 6), (7, 3), (70, 66)]), st.integers(-1070, 1015), st.integers(0, 10**6)
)  # fmt: skip
def test_a_power_of_two_changes_the_values_alone(shape, power, seed):
    draw = torch.Generator().manual_seed(seed)
    a = torch.randint(-7, 8, (2, *shape), generator=draw).double()
    u, s, vh = d2k.svd(a)
    up = 2.0 ** (power // 2), 2.0 ** (power - power // 2)
    got = d2k.svd(a * up[0] * up[1])
    assert torch.equal(got[0], u) and torch.equal(got[2], vh)
    torch.testing.assert_close(got[1], s * up[0] * up[1], rtol=1e-15, atol=5e-324)


@pytest.mark.parametrize("power", [-900, -300, 300, 900])
def test_gradients_at_every_magnitude(power):
    a = matrices(2, 4, 3)
    scale = 2.0**power

    def gradient(x, unit):
        leaf = x.clone().requires_grad_()
        u, s, vh = d2k.svd(leaf)
        (u[:, 0] * u[:, 1] * vh[:, :1]).sum().add((s / unit).sum()).backward()
        return leaf.grad * unit

    torch.testing.assert_close(gradient(a * scale, scale), gradient(a, 1.0), rtol=1e-9, atol=1e-12)
