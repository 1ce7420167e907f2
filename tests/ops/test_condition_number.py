"""condition_number against torch.linalg.svdvals, and against 60 digits where float64 is not enough."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.condition_number import reference, schema

EPS = torch.finfo(torch.float64).eps
native_only = pytest.mark.skipif(not d2k.backends.can_run("condition_number", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "condition_number"):
        yield request.param



def matrices(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_singular_values(m, n, s, seed=0):
    k = len(s)
    u = torch.linalg.qr(matrices(m, k, seed=seed)).Q
    v = torch.linalg.qr(matrices(n, k, seed=seed + 1)).Q
    return (u * torch.tensor(s, dtype=torch.float64)) @ v.T


def oracle(a, atol=0.0, rtol=None):
    """η of each matrix in a Python loop."""
    out = []
    for x in a.double():
        s = torch.linalg.svdvals(x)
        counted = s[s > max(atol, (max(x.shape) * EPS if rtol is None else rtol) * s[0].item())]
        out.append((counted[0] / counted[-1]).item() if len(counted) else 1.0)
    return torch.tensor(out, dtype=torch.float64)


@settings(max_examples=50)
@given(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_equals_svdvals(batch, m, n, seed):
    a = matrices(batch, m, n, seed=seed)
    want = oracle(a)
    torch.testing.assert_close(d2k.condition_number(a), want, rtol=1e-10, atol=0)
    torch.testing.assert_close(d2k.condition_number(a, log=True), want.log(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8, 1e-11])
def test_near_singular_two_by_two_against_sixty_digits(gap):
    a = torch.tensor([[0.3, 0.7], [0.3 + gap, 0.7 - gap]], dtype=torch.float64)
    with mpmath.workdps(60):
        (p, q), (r, s) = [[mpmath.mpf(x) for x in row] for row in a.tolist()]
        largest = (mpmath.hypot(p + s, q - r) + mpmath.hypot(p - s, q + r)) / 2
        smallest = abs(p * s - q * r) / largest
        eta = largest / smallest
        want, want_log = float(eta), float(mpmath.log(eta))
    # Backward stable: σ₂ is off by some eps·σ₁.
    error = 8 * EPS * want
    assert d2k.condition_number(a).item() == pytest.approx(want, rel=error)
    assert d2k.condition_number(a, log=True).item() == pytest.approx(want_log, abs=error)


@pytest.mark.parametrize("shape", [(6, 3, 6), (6, 6, 3), (2, 5, 7), (4, 4, 4), (5, 1, 3)])
@pytest.mark.parametrize("log", [False, True])
def test_product_is_kept_factored(shape, log):
    m, k, n = shape
    a, b = matrices(3, m, k).requires_grad_(), matrices(3, k, n, seed=1).requires_grad_()
    got, whole = (d2k.condition_number(*x, rtol=1e-9, log=log) for x in ((a, b), (a @ b,)))
    want = oracle((a @ b).detach(), rtol=1e-9)
    torch.testing.assert_close(got, want.log() if log else want, rtol=1e-9, atol=1e-12)
    g = matrices(3)
    for mine, theirs in zip(*(torch.autograd.grad(v, (a, b), g) for v in (got, whole)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_rank_by_tolerance():
    a = with_singular_values(5, 4, (4.0, 1.0, 1e-3, 1e-17))
    for options, want in (
        ({}, 4e3),
        ({"atol": 1e-2}, 4.0),
        ({"rtol": 0.1}, 4.0),
        ({"rtol": 1e-4}, 4e3),
        ({"atol": 1e-6, "rtol": 0.5}, 1.0),
        ({"atol": 5.0}, 1.0),
    ):
        assert d2k.condition_number(a, **options).item() == pytest.approx(want, rel=1e-9), options


@pytest.mark.parametrize("a", [torch.zeros(3, 2), torch.eye(3), -2 * torch.eye(2), torch.ones(1, 4)])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("factored", [False, True])
def test_one_has_no_gradient(a, log, factored):
    leaves = [a.double().requires_grad_()]
    if factored:
        leaves.append(torch.eye(a.shape[1], dtype=torch.float64).requires_grad_())
    out = d2k.condition_number(*leaves, log=log)
    assert out.item() == (0 if log else 1)
    assert not any(g.any() for g in torch.autograd.grad(out, leaves))


def test_a_bad_matrix_leaves_the_others_alone():
    a = matrices(4, 3, 3)
    clean = d2k.condition_number(a)
    a[1], a[2] = 0, float("nan")
    leaf = a.clone().requires_grad_()
    out = d2k.condition_number(leaf)
    assert torch.equal(out[[0, 3]], clean[[0, 3]]) and out[1] == 1 and out[2].isnan()
    (g,) = torch.autograd.grad(out.sum(), leaf)
    alone = a[3].clone().requires_grad_()
    assert torch.equal(g[3], torch.autograd.grad(d2k.condition_number(alone), alone)[0])
    assert not g[1].any() and g[2].isnan().all()
    torch.testing.assert_close(d2k.condition_number(a), out, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (20, 10), (100, 100)])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_is_said_so(shape, log, factored, bad):
    leaves = [matrices(2, *shape)]
    if factored:
        leaves.append(matrices(2, shape[1], shape[0], seed=1))
    leaves[-1][0, 1, 0] = bad
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = d2k.condition_number(*leaves, log=log)
    assert out[1].isfinite() and (out[0].isnan() if bad != bad else out[0] == float("inf"))
    for g in torch.autograd.grad(out.sum(), leaves):
        assert g[0].isnan().all() and g[1].isfinite().all()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(2, 2), (1, 4), (3, 5), (6, 6), (7, 3)]), st.integers(0, 6), st.booleans(),
    st.integers(-1070, 1020), st.integers(0, 10**6),
)  # fmt: skip
def test_a_power_of_two_changes_no_bit(shape, inner, log, power, seed):
    m, n = shape
    draw = torch.Generator().manual_seed(seed)
    # Of three bits, which are exact at every power, subnormal ones included.
    a, b = (torch.randint(-7, 8, s, generator=draw).double() for s in ((2, m, inner or n), (2, inner, n)))
    factors = (a, b) if inner else (a, None)
    want = schema.condition_number(*factors, 0.0, 1e-12, log)[0]
    scaled = a * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    assert torch.equal(schema.condition_number(scaled, factors[1], 0.0, 1e-12, log)[0], want)


def test_single_matrices_and_empty_batch():
    a, b = matrices(4, 3), matrices(3, 5, seed=1)
    for pair in ((a,), (a, b)):
        got, want = (d2k.condition_number(*p, log=True) for p in (pair, [x[None] for x in pair]))
        assert got.shape == () and torch.equal(got, want[0])
    a, b = matrices(0, 3, 2).requires_grad_(), matrices(0, 2, 4).requires_grad_()
    for out in (d2k.condition_number(a), d2k.condition_number(a, b)):
        assert out.shape == (0,)
        assert torch.autograd.grad(out.sum(), a)[0].shape == (0, 3, 2)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 5, 3), (1, 3, 5)])
@pytest.mark.parametrize("log", [False, True])
def test_gradcheck_and_reference(shape, log):
    a = matrices(*shape, seed=2).requires_grad_()
    b = matrices(shape[0], shape[2], 4, seed=3).requires_grad_()
    g, rtol = matrices(shape[0], seed=4), 1e-9
    for leaves in ((a,), (a, b)):
        other = leaves[1] if len(leaves) > 1 else None
        assert torch.autograd.gradcheck(lambda *x: d2k.condition_number(*x, rtol=rtol, log=log), leaves)
        ours = torch.autograd.grad(d2k.condition_number(*leaves, rtol=rtol, log=log), leaves, g)
        theirs = torch.autograd.grad(reference.condition_number(a, other, 0.0, rtol, log), leaves, g)
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_gradient_of_a_deficient_matrix_is_that_of_its_last_counted_value():
    a = with_singular_values(4, 4, (3.0, 2.0, 1.0, 0.0)).requires_grad_()
    u, s, vh = torch.linalg.svd(a.detach())
    (g,) = torch.autograd.grad(d2k.condition_number(a, atol=1e-6, log=True), a)
    want = torch.outer(u[:, 0], vh[0]) / s[0] - torch.outer(u[:, 2], vh[2]) / s[2]
    torch.testing.assert_close(g, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("factored", [False, True])
def test_low_precision_computes_in_float64(dtype, factored):
    low = [matrices(8, 4, 3, dtype=dtype)] + [matrices(8, 3, 5, dtype=dtype, seed=1)] * factored
    results = []
    for leaves in ([t.clone().requires_grad_() for t in low], [t.double().requires_grad_() for t in low]):
        out = d2k.condition_number(*leaves, log=True)
        results.append((out, *torch.autograd.grad(out.sum(), leaves)))
    for mine, exact in zip(*results, strict=True):
        assert mine.dtype == dtype and torch.equal(mine, exact.to(dtype))


def test_second_derivative_raises():
    a = matrices(2, 3, 3).requires_grad_()
    (g,) = torch.autograd.grad(d2k.condition_number(a).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        (g.square().sum() + a.sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    a, b = matrices(2, 4, 3, dtype=dtype), matrices(2, 3, 5, dtype=dtype, seed=1)
    torch.library.opcheck(schema.condition_number.op, (a, None, 0.0, 1e-9, False))
    torch.library.opcheck(schema.condition_number.op, (a, b, 0.0, 1e-9, True))
    slope = schema.condition_number(a, b, 0.0, 1e-9, True)[1]
    torch.library.opcheck(schema.condition_number_backward.op, (matrices(2, dtype=dtype), slope))


def test_compiles_whole_with_gradients():
    def loss(a, b):
        return d2k.condition_number(a, log=True).sum() + d2k.condition_number(a, b, rtol=1e-9).log().sum()

    eager, compiled = ([matrices(2, 4, 3).requires_grad_(), matrices(2, 3, 5).requires_grad_()] for _ in range(2))
    loss(*eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*compiled).backward()
    torch.testing.assert_close([a.grad for a in eager], [b.grad for b in compiled])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((torch.zeros(3),), {}, ValueError, r"a must be a float .* got torch.float32 \(3,\)"),
        ((torch.zeros(2, 2).long(),), {}, ValueError, r"a must be .* got torch.int64 \(2, 2\)"),
        (([[1.0]],), {}, ValueError, "a must be .* got list"),
        ((torch.zeros(2, 0),), {}, ValueError, r"a must not be an empty matrix, got \(2, 0\)"),
        ((torch.ones(2, 2), torch.ones(2)), {}, ValueError, r"b must be .* got torch.float32 \(2,\)"),
        ((torch.ones(2, 2), torch.ones(2, 2).double()), {}, TypeError, "b must be torch.float32 .* got torch.float64"),
        ((torch.ones(2, 3), torch.ones(2, 3)), {}, ValueError, r"a \(2, 3\) and b \(2, 3\) have no product"),
        ((torch.ones(2, 2, 2), torch.ones(2, 2)), {}, ValueError, r"a \(2, 2, 2\) and b \(2, 2\) have no product"),
        ((torch.ones(2, 2),), {"atol": -1.0}, ValueError, "atol must be at least 0, got -1.0"),
        ((torch.ones(2, 2),), {"rtol": float("nan")}, ValueError, "rtol must be .* got nan"),
    ],
)
def test_errors_name_the_argument(arguments, options, error, says):
    with pytest.raises(error, match=says):
        d2k.condition_number(*arguments, **options)


def exact(a, digits=60):
    """Singular values of one matrix, rounded once, from so many digits."""
    with mpmath.workdps(digits):
        m = mpmath.matrix(a.tolist())
        s = mpmath.svd_r(m, compute_uv=False)
        return [s[i] for i in range(min(m.rows, m.cols))]


def graded(m, n, ratio, seed=0):
    """Rows and columns that fall by `ratio` from first to last."""
    row, column = (torch.logspace(0, torch.tensor(ratio).log10().item(), k, dtype=torch.float64) for k in (m, n))
    return row[:, None] * matrices(m, n, seed=seed) * column


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (3, 8), (2, 2)])
@pytest.mark.parametrize("ratio", [1e-2, 1e-4])
@pytest.mark.parametrize("scale", [1.0, 1e300, 2.0**-1040])
def test_graded_and_scaled_against_sixty_digits(backend, shape, ratio, scale):
    if backend == "reference" and scale < 1e-300:
        pytest.skip("torch.linalg computes with denormals as they are")
    a = graded(*shape, ratio) * scale
    s = exact(a)
    want = float(s[0] / s[-1])
    assert d2k.condition_number(a).item() == pytest.approx(want, rel=50 * EPS * want)
    b = matrices(shape[1], 6, seed=3)
    plain = exact((a / scale) @ b)
    want = float(plain[0] / plain[min(shape) - 1])
    assert d2k.condition_number(a, b, rtol=1e-13).item() == pytest.approx(want, rel=1e3 * EPS * want)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 11), st.integers(1, 9), st.integers(0, 9), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_native_equals_the_reference(backend, batch, m, inner, n, log, seed):
    a, b = matrices(batch, m, inner or n, seed=seed), matrices(batch, inner, n, seed=seed + 1) if inner else None
    rtol = 1e-10
    got = schema.condition_number(a, b, 0.0, rtol, log)
    want = reference.condition_number_forward(a, b, 0.0, rtol, log)
    scale = want[0].abs().max().item() ** 2 + 1
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize(("m", "inner", "n"), [(2, 2, 0), (5, 3, 0), (20, 10, 20), (6, 9, 4), (40, 50, 0)])
def test_native_bits_depend_on_no_neighbour_and_no_thread(backend, m, inner, n):
    a, b = matrices(203, m, inner), matrices(203, inner, n, seed=1) if n else None
    a[5], a[9] = 0, float("inf")
    a[11, :, 1] = a[11, :, 0]

    def run(rows):
        return schema.condition_number(a[rows], None if b is None else b[rows], 0.0, 1e-12, False)

    whole = run(slice(None))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        again = run(slice(None))
    finally:
        torch.set_num_threads(threads)
    made = [i for i, x in enumerate(whole) if x is not None]
    for i in made:
        torch.testing.assert_close(whole[i], again[i], rtol=0, atol=0, equal_nan=True)
    for rows in (slice(0, 1), slice(5, 6), slice(9, 12), slice(3, 12), slice(202, 203)):
        for x, y in ((run(rows)[i], whole[i]) for i in made):
            if y.numel():
                torch.testing.assert_close(x, y[rows], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_native_takes_strided_matrices(backend):
    a = matrices(6, 4, 8)
    for x in (a[:, :, ::2], a.mT[::2], a.transpose(0, 1)):
        assert torch.equal(d2k.condition_number(x), d2k.condition_number(x.contiguous()))


@pytest.mark.parametrize("shape", [(1, 100, 100), (2, 130, 97)])
def test_long_matrices(shape):
    a = matrices(*shape)
    torch.testing.assert_close(d2k.condition_number(a), oracle(a), rtol=1e-9, atol=0)
