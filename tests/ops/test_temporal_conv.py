"""temporal_conv against nn.functional.conv1d on every sequence alone."""

from __future__ import annotations

import resource
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.temporal_conv import bits, reference, schema
from d2kernels.ops.temporal_conv.dropout import placed

NAN = float("nan")
SEED = torch.tensor([1 - 2**60])


def batch(lengths, channels=4, dtype=torch.float64, seed=0, gap=0, fill=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = d2k.Ragged.pack(
        [torch.randn(s, channels, generator=generator, dtype=torch.float64).to(dtype) for s in lengths], gap=gap
    )
    return x.with_values(torch.where(x.row_mask()[:, None], x.values, fill))


def parameters(c_in=4, c_out=4, kernel=3, groups=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(c_out, c_in // groups, kernel, generator=generator, dtype=torch.float64)
    return weight.to(dtype), torch.randn(c_out, generator=generator, dtype=torch.float64).to(dtype)


def oracle(sequences, weight, bias=None, *, dilation=1, groups=1, negative_slope=None, residual=False):
    """Float64 rows of every sequence, one conv1d each."""
    out = []
    for x in (s.double() for s in sequences):
        if not len(x):
            continue
        padding = dilation * (weight.shape[2] - 1) // 2
        b = None if bias is None else bias.double()
        y = F.conv1d(x.T[None], weight.double(), b, padding=padding, dilation=dilation, groups=groups)[0].T
        if negative_slope is not None:
            y = F.leaky_relu(y, negative_slope)
        out.append(y + x if residual else y)
    return torch.cat(out) if out else torch.zeros(0, len(weight), dtype=torch.float64)


CONFIGS = [
    {},
    {"negative_slope": 0.2},
    {"residual": True},
    {"negative_slope": 0.2, "residual": True, "dilation": 2, "groups": 2},
    {"negative_slope": -0.3, "dilation": 3},
    {"negative_slope": 0.0, "groups": 4},
    {"negative_slope": 0.2, "dropout": 0.3, "seed": SEED},
    {"negative_slope": 0.2, "residual": True, "groups": 2, "dropout": 0.5, "seed": SEED},
]


def case(lengths, options, dtype=torch.float64, channels=4, **keywords):
    """A batch, temporal_conv as a function of its rows, weight and bias, and these three."""
    x = batch(lengths, channels, dtype, **keywords)
    p = parameters(channels, channels, groups=options.get("groups", 1), dtype=dtype)
    leaves = [t.clone().requires_grad_() for t in (x.values, *p)]
    return x, lambda v, w, b: d2k.temporal_conv(x.with_values(v), w, b, **options).values, leaves


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=5),
    st.integers(0, 2),
    st.sampled_from([1, 3, 5, 7]),
    st.builds(
        dict,
        dilation=st.integers(1, 4),
        groups=st.sampled_from([1, 2, 4]),
        negative_slope=st.sampled_from([None, 0.2, 0.0, -0.5]),
        residual=st.booleans(),
    ),
    st.booleans(),
)
def test_equals_conv1d(lengths, gap, kernel, options, with_bias):
    x = batch(lengths, gap=gap, fill=NAN)
    weight, bias = parameters(c_out=4 if options["residual"] else 8, kernel=kernel, groups=options["groups"])
    bias = bias if with_bias else None
    got = d2k.temporal_conv(x, weight, bias, **options)
    want = oracle(x.unpack(), weight, bias, **options)
    torch.testing.assert_close(got.values[x.row_mask()], want, rtol=1e-12, atol=1e-12)
    assert not got.values[~x.row_mask()].any()


def test_three_forms_agree():
    x = batch([4, 7, 1], gap=1)
    dense, mask = x.padded(fill=NAN)
    p = parameters(c_out=6)
    want = d2k.temporal_conv(x, *p)
    assert torch.equal(d2k.temporal_conv(x.values, *p, offsets=x.offsets, lengths=x.lengths), want.values)
    for got in (d2k.temporal_conv(dense, *p, lengths=x.lengths), d2k.temporal_conv(dense, *p, mask=mask)):
        assert got.shape == (3, 7, 6) and not got[~mask].any()
        torch.testing.assert_close(got[mask], want.values[x.row_mask()], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", CONFIGS)
def test_gap_rows_never_leak(options):
    grads = []
    for fill in (0.0, NAN):
        x, f, leaves = case([5, 1, 3], options, gap=2, fill=fill)
        out = f(*leaves)
        # A NaN gradient of a gap row must not leak either.
        grads.append(torch.autograd.grad(out, leaves, torch.where(x.row_mask()[:, None], out.detach(), fill)))
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*grads, strict=True))
    assert not grads[1][0][~x.row_mask()].any()


def test_empty_batch_empty_sequence_and_one_row():
    weight, bias = (p.requires_grad_() for p in parameters())
    nothing = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    for offsets, slope in (([0], None), ([0], 0.2), ([0, 0, 0], 0.0)):
        out = d2k.temporal_conv(nothing, weight, bias, offsets=torch.tensor(offsets), negative_slope=slope)
        grads = torch.autograd.grad(out.sum(), (nothing, weight, bias))
        assert out.shape == grads[0].shape == (0, 4) and not grads[1].any() and not grads[2].any()
    x = torch.randn(2, 4, dtype=torch.float64)
    out = d2k.temporal_conv(x, weight, bias, offsets=torch.tensor([0, 1, 1, 2]))
    torch.testing.assert_close(out, x @ weight[:, :, 1].T + bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("options", CONFIGS[:4])
def test_low_precision_accumulates_in_float32(dtype, options):
    x, f, low = case([90, 17], options, dtype, 64)
    g = batch([90, 17], 64, dtype, seed=2).values
    out = f(*low)
    high = [t.detach().double().requires_grad_() for t in low]
    want = oracle(x.with_values(high[0]).unpack(), *high[1:], **options)
    got = (out, *torch.autograd.grad(out, low, g))
    for mine, exact in zip(got, (want, *torch.autograd.grad(want, high, g.double())), strict=True):
        assert mine.dtype == dtype
        rounding = (exact.to(dtype).double() - exact).norm() / exact.norm()
        # Twice: bias, activation and residual each round once more.
        assert (mine.double() - exact).norm() / exact.norm() <= 2 * rounding + 1e-6


@pytest.mark.parametrize("options", CONFIGS)
def test_gradcheck_backward_and_reference(options):
    x, f, leaves = case([5, 2], options, gap=1)
    linear = {**options, "negative_slope": None, "residual": False, "dropout": 0.0}
    assert d2k.temporal_conv(x, *leaves[1:], **linear).values[x.row_mask()].abs().min() > 1e-4
    assert torch.autograd.gradcheck(f, leaves)
    g = torch.randn(x.values.shape, dtype=torch.float64)
    ours = torch.autograd.grad(f(*leaves), leaves, g)
    theirs = torch.autograd.grad(reference.temporal_conv(*leaves, x.offsets, x.lengths, **options), leaves, g)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_strided_arguments():
    x = batch([5, 2], channels=8)
    weight, bias = parameters()
    leaf, weight = x.values[:, ::2].requires_grad_(), weight.transpose(0, 1)
    got = d2k.temporal_conv(x.with_values(leaf), weight, bias).values
    want = oracle(x.with_values(leaf).unpack(), weight, bias)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(out.sum(), leaf)[0] for out in (got, want)))


def test_neighbours_do_not_matter_and_runs_repeat():
    sequences = batch([6, 9, 4]).unpack()

    def run(parts):
        x = d2k.Ragged.pack(parts, gap=1)
        values = x.values.clone().requires_grad_()
        out = d2k.temporal_conv(x.with_values(values), *parameters(), dilation=2, negative_slope=0.2)
        (g,) = torch.autograd.grad(out.values.square().sum(), values)
        return out.unpack(), x.with_values(g).unpack()

    together, again = run(sequences), run(sequences)
    other = run([sequences[0], torch.full_like(sequences[1], NAN), sequences[2]])
    for i, s in enumerate(sequences):
        for a, b, c, d in zip(together, again, other, run([s]), strict=True):
            assert torch.equal(a[i], b[i]) and (i == 1 or torch.equal(a[i], c[i]))
            torch.testing.assert_close(a[i], d[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("backend", "dtype"), [("reference", torch.float32), ("native", torch.float32), ("native", torch.bfloat16)]
)
@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(0, 3),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 5),
    st.sampled_from([1, 2]),
    st.sampled_from([None, 0.2]),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
    st.booleans(),
)
def test_every_backend_in_training_precision(
    backend, dtype, lengths, gap, kernel, dilation, groups, slope, residual, dropout, dense
):
    if not d2k.backends.can_run("temporal_conv", backend, "cpu", dtype):
        pytest.skip(d2k.backends.explain("temporal_conv", "cpu", dtype)[backend])
    assume(any(lengths))
    options = {"dilation": dilation, "groups": groups, "negative_slope": slope, "residual": residual}
    options |= {"dropout": dropout, "seed": SEED}
    # Whole numbers: exact sums, so that rounding cannot choose the activation's branch.
    x = batch(lengths, 16, dtype, gap=gap, fill=NAN)
    x = x.with_values(x.values.round())
    weight, bias = (p.round() for p in parameters(16, 16 if residual else 24, kernel, groups, dtype))
    inside = x.row_mask()

    def run(backend, kind):
        leaves = [t.to(kind).requires_grad_() for t in (x.values, weight, bias)]
        with d2k.backends.use(backend, "temporal_conv"):
            if dense:
                rows, mask = x.with_values(leaves[0]).padded(fill=NAN)
                out = d2k.temporal_conv(rows, *leaves[1:], mask=mask, **options)[mask]
            else:
                out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:], **options).values[inside]
            grads = torch.autograd.grad(out, leaves, seed[: len(out), : out.shape[1]].to(kind))
        assert dense or not grads[0][~inside].any()
        return out, grads[0][inside], *grads[1:]

    generator = torch.Generator().manual_seed(3)
    seed = torch.randn(sum(lengths), 24, generator=generator).to(dtype)
    band = 1e-5 if dtype == torch.float32 else 2e-2
    for mine, exact in zip(run(backend, dtype), run("reference", torch.float64), strict=True):
        assert (mine.double() - exact).norm() <= band * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 72])
def test_native_rows_do_not_depend_on_their_place(dtype, channels):
    if not d2k.backends.can_run("temporal_conv", "native", "cpu", dtype):
        pytest.skip(d2k.backends.explain("temporal_conv", "cpu", dtype)["native"])
    sequences = batch([37, 1, 130, 20, 9], channels, dtype).unpack()
    p = parameters(channels, channels, groups=2, dtype=dtype)

    def run(order):
        x = d2k.Ragged.pack([sequences[i] for i in order])
        values = x.values.clone().requires_grad_()
        with d2k.backends.use("native", "temporal_conv"):
            out = d2k.temporal_conv(x.with_values(values), *p, groups=2, negative_slope=0.2, residual=True)
        (g,) = torch.autograd.grad(out.values.sum(), values)
        made = zip(order, out.unpack(), x.with_values(g).unpack(), strict=True)
        return {i: torch.cat([y.detach(), dx]) for i, y, dx in made}

    whole = run([0, 1, 2, 3, 4])
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [2, 3], [1], [0, 4]):
        assert all(torch.equal(rows, whole[i]) for i, rows in run(order).items()), order


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_backward_under_autocast_is_in_the_forwards_dtype(backend, kernel):
    x = batch([37, 5], 16, torch.float32)
    leaves = [t.requires_grad_() for t in (x.values, *parameters(16, 16, kernel, dtype=torch.float32))]

    def gradients(enabled):
        with d2k.backends.use(backend, "temporal_conv"), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            with torch.autocast("cpu", enabled=False):
                out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:]).values
            return torch.autograd.grad(out.square().sum(), leaves)

    assert all(torch.equal(a, b) for a, b in zip(gradients(True), gradients(False), strict=True))


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_without_gradients(grad):
    x, (weight, bias) = batch([4, 7], dtype=torch.float32), parameters(dtype=torch.float32)

    def f(values):
        return d2k.temporal_conv(values, weight, bias, offsets=x.offsets, negative_slope=0.2)

    torch._dynamo.reset()
    with torch.set_grad_enabled(grad):
        assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager")(x.values), f(x.values))


def test_functional_gradients():
    x, (weight, bias) = batch([3, 9], dtype=torch.float32), parameters(dtype=torch.float32)

    def loss(weight):
        out = d2k.temporal_conv(x.values, weight, bias, offsets=x.offsets, negative_slope=0.2)
        return d2k.topk_pool(out, offsets=x.offsets).square().sum()

    leaf = weight.clone().requires_grad_()
    want = torch.autograd.grad(loss(leaf), leaf)[0]
    assert torch.equal(torch.func.grad(loss)(weight), want)
    # The compiler leaves out a Function's backward under torch.func: it must stop.
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(lambda w: torch.func.grad(loss)(w), fullgraph=True, backend="eager")(weight)


@pytest.mark.parametrize("apart", ["a sequence", "a column"])
def test_dense_sequences_of_one_row_may_have_any_stride(apart):
    weight, bias = parameters(dtype=torch.float32)
    n, c = 50, weight.shape[1]
    rows, seed = torch.randn(n, c), torch.randn(n, weight.shape[0])

    def spread(x):
        return x[:, :, None].transpose(1, 2) if apart == "a column" else x[None].transpose(0, 1)

    def gradients(x, seed):
        leaves = [t.clone().requires_grad_() if t.is_contiguous() else t.requires_grad_() for t in (x, weight, bias)]
        out = d2k.temporal_conv(*leaves, lengths=torch.ones(n, dtype=torch.int64))
        return [out.detach(), *torch.autograd.grad(out, leaves, seed)]

    want = gradients(rows[:, None].contiguous(), seed[:, None])
    got = gradients(spread(rows).detach(), spread(seed))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_second_derivative_raises():
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    out = d2k.temporal_conv(x, *parameters(), offsets=torch.tensor([0, 5])).square().sum()
    (g,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        (g.square().sum() + x.sum()).backward()


@pytest.mark.parametrize("options", CONFIGS[:4] + CONFIGS[-1:])
def test_opcheck(options):
    x, _, (_, weight, bias) = case([4, 7], options, torch.float32, gap=1)
    weight, bias = weight.detach(), bias.detach()
    plain = {"dilation": 1, "groups": 1, "negative_slope": None, "residual": False, "dropout": 0.0, "seed": None}
    seed = options.get("seed")
    rest = (plain | options | {"seed": seed if seed is None else placed(seed, None)}).values()
    for b in (bias, None):
        torch.library.opcheck(schema.temporal_conv.op, (x.values, weight, b, x.offsets, x.lengths, *rest))
    g = torch.randn(len(x.values), 4)
    problem = (g, x.values, weight, x.offsets, x.lengths, bits.pack(g > 0), *rest)
    for need in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
        torch.library.opcheck(schema.temporal_conv_backward.op, (*problem, *need))


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_gradients_that_nobody_needs_are_not_computed(backend, monkeypatch):
    asked = []
    run = schema.temporal_conv_backward
    monkeypatch.setattr(schema, "temporal_conv_backward", lambda *a: asked.append(run(*a)) or asked[-1])
    _, f, leaves = case([4, 7], CONFIGS[3], torch.float32)
    with d2k.backends.use(backend, "temporal_conv"):
        whole = torch.autograd.grad(f(*leaves).sum(), leaves)
        for needed in ([0], [1, 2], [2]):
            some = [t.detach().requires_grad_(i in needed) for i, t in enumerate(leaves)]
            got = torch.autograd.grad(f(*some).sum(), [some[i] for i in needed])
            assert all(torch.equal(g, whole[i]) for g, i in zip(got, needed, strict=True))
            assert [t is not None and t.numel() > 0 for t in asked[-1]] == [i in needed for i in range(3)]


# Past the sizes where weight gradients are convolutions, with chunks whose taps reach into the next, or past the end.
@pytest.mark.parametrize(("lengths", "kernel", "dilation"), [([1500, 0, 700], 3, 1), ([300], 5, 160), ([1025], 5, 300)])
def test_weight_gradients_of_many_rows(lengths, kernel, dilation):
    options = {"dilation": dilation, "groups": 2}
    x, seeds = (batch(lengths, 128, torch.float32, seed=s) for s in (0, 2))
    weight, _ = parameters(128, 128, kernel, 2, torch.float32)

    def gradient(make):
        w = weight.double().requires_grad_() if make is oracle else weight.clone().requires_grad_()
        if make is oracle:
            return torch.autograd.grad((oracle(x.unpack(), w, **options) * seeds.values).sum(), w)[0]
        with d2k.backends.use(make, "temporal_conv"):
            return torch.autograd.grad((d2k.temporal_conv(x, w, **options).values * seeds.values).sum(), w)[0]

    want = gradient(oracle)
    error = {b: ((gradient(b) - want).norm() / want.norm()).item() for b in ("reference", "native")}
    assert error["native"] <= 2 * error["reference"] + 1e-7, error


@pytest.mark.parametrize("options", [CONFIGS[1], CONFIGS[3]])
def test_compiles_whole_with_gradients(options):
    _, f, eager = case([4, 7], options, torch.float32)
    compiled = [t.detach().clone().requires_grad_() for t in eager]
    f(*eager).square().sum().backward()
    torch.compile(f, fullgraph=True, backend="aot_eager")(*compiled).square().sum().backward()
    torch.testing.assert_close([a.grad for a in eager], [b.grad for b in compiled])


def test_autocast_casts_as_conv1d():
    _, f, leaves = case([4, 7], {}, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = f(*leaves)
    assert out.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(out.float().sum(), leaves))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": torch.zeros(4, 5)}, ValueError, "x has 5 channels, but weight"),
        ({"x": torch.zeros(4, 4, dtype=torch.int64)}, ValueError, "x must be float rows.*int64"),
        ({"weight": torch.zeros(4, 4, 2)}, ValueError, r"k odd, got \(4, 4, 2\)"),
        ({"weight": torch.zeros(4, 4)}, ValueError, r"weight must be .* got \(4, 4\)"),
        ({"weight": torch.zeros(4, 4, 3).double()}, TypeError, "weight must be torch.float32 as x, got torch.float64"),
        ({"bias": torch.zeros(4).double()}, TypeError, "bias must be torch.float32 as x, got torch.float64"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must be \(4,\), got \(3,\)"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"weight": torch.zeros(3, 2, 3), "bias": None, "groups": 2}, ValueError, "2 groups do not divide weight's 3"),
        ({"weight": torch.zeros(6, 4, 3), "bias": None, "residual": True}, ValueError, "got 4 in and 6 out"),
    ],
)
def test_errors_name_the_argument(change, error, says):
    arguments = {"x": torch.zeros(4, 4), "weight": torch.zeros(4, 4, 3), "bias": torch.zeros(4), **change}
    with pytest.raises(error, match=says):
        d2k.temporal_conv(**arguments, offsets=torch.tensor([0, 4]))


def with_gradients(backend, x, weight, bias, **options):
    """Rows and the gradients of rows, weight and bias, by a backend."""
    leaves = [t.clone().requires_grad_() for t in (x.values, weight, bias)]
    with d2k.backends.use(backend, "temporal_conv"):
        out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:], **options).values
        seed = torch.linspace(0.5, 1.5, max(out.numel(), 1), dtype=torch.float64)  # no sum of it cancels
        out.backward(seed[: out.numel()].view(out.shape).to(out.dtype))
    return out.detach(), *(t.grad for t in leaves)


def path(backend, monkeypatch):
    """A backend by name; "library" is the native one where our own products do not serve."""
    if backend == "library":
        from d2kernels.ops.temporal_conv import products

        monkeypatch.setattr(products, "serve", lambda *_: False)
    return "native" if backend == "library" else backend


@pytest.mark.parametrize("backend", ["native", "library", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), NAN])
@pytest.mark.parametrize(("kernel", "dilation", "groups"), [(3, 1, 1), (5, 2, 2), (7, 1, 1), (5, 40, 1)])
def test_what_is_not_finite_spreads_as_in_the_reference(backend, dtype, bad, kernel, dilation, groups, monkeypatch):
    """A tap that sees padding alone has no gradient of it: no gap's zero meets infinity."""
    name = path(backend, monkeypatch)
    if not d2k.backends.can_run("temporal_conv", name, "cpu", dtype):
        pytest.skip(f"{name} does not run {dtype} here")
    x = batch([1, 4, 0, 9], channels=8, dtype=dtype, gap=1)
    for row, channel in ((1, 0), (6, 1), (17, 5)):
        x.values[row, channel] = bad
    weight, bias = parameters(8, 8, kernel, groups, dtype)
    options = {"dilation": dilation, "groups": groups}
    got = with_gradients(name, x, weight, bias, **options)
    want = with_gradients("reference", x, weight, bias, **options)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf())
        held = b.isfinite()
        assert bool(((a - b)[held].abs() <= 0.02 * b[held].abs().max().clamp(min=1)).all())


@pytest.mark.parametrize("backend", ["reference", "native", "library"])
def test_no_outputs_at_all(backend, monkeypatch):
    name = path(backend, monkeypatch)
    for groups in (1, 2):
        x, (weight, bias) = batch([3, 2], dtype=torch.float32), parameters(4, 0, 3, groups, torch.float32)
        out, grad_x, grad_w, grad_b = with_gradients(name, x, weight, bias, groups=groups)
        assert out.shape == (5, 0) and grad_w.shape == weight.shape and grad_b.shape == (0,)
        assert grad_x.eq(0).all()


@pytest.mark.parametrize("backend", ["reference", "native", "library"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("lengths", "dilation"),
    [([500], 10**6), ([500], 2**63 - 1), ([2000] + [1] * 3000, 900), ([70, 3, 0], 66), ([], 10**9), ([0, 0], 10**9)],
)
def test_a_wide_dilation_costs_what_the_rows_cost(backend, dtype, lengths, dilation, monkeypatch):
    name = path(backend, monkeypatch)
    if not d2k.backends.can_run("temporal_conv", name, "cpu", dtype):
        pytest.skip(f"{name} does not run {dtype} here")
    x = batch(lengths, 64, dtype) if lengths else d2k.Ragged(torch.zeros(0, 64, dtype=dtype), torch.tensor([0]))
    weight, bias = parameters(64, 64, 5, 1, dtype)
    began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = with_gradients(name, x, weight, bias, dilation=dilation)
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 500e3  # kB
    small = min(dilation, max([1, *lengths]))  # the same taps see rows
    want = with_gradients("reference", x, weight, bias, dilation=small)
    for a, b in zip(got, want, strict=True):
        close = 100 * torch.finfo(dtype).eps
        assert float((a - b).double().norm()) <= close * float(b.double().norm().clamp(min=1e-9))
