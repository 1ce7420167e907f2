"""pdmi_snippet against the singular values of joints that a loop builds, mpmath and golden losses."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import d2kernels as d2k
from d2kernels.ops.pdmi import reference, schema

NAN = float("nan")
F64 = torch.float64
native_only = pytest.mark.skipif(not d2k.backends.can_run("pdmi", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "pdmi"):
        yield request.param



def batch(lengths, seed=0, gap=0, dtype=F64):
    """Attention on the foreground, the same for the background, and λ' with ties at 0.5; three Ragged."""
    generator = torch.Generator().manual_seed(seed)
    draws = ([torch.rand(s, generator=generator, dtype=F64) for s in lengths] for _ in range(3))
    a, b, f = (d2k.Ragged.pack(d, gap=gap) for d in draws)
    return a.to(dtype), b.to(dtype), f.with_values((f.values * 20).round() / 20).to(dtype)


def snippet_oracle(attention, foreground, background, ft=0.5, bt=0.5, normalization="joint", floor=0.0, rtol=1e-6):
    values = []
    for a, f, b in zip(attention, foreground, background, strict=True):
        on, off = a[f > ft].double(), b[f < bt].double()
        if len(on) == 0 or len(off) == 0:
            values.append(torch.zeros((), dtype=F64))
            continue
        rows = torch.stack([torch.stack([q.sum(), (1 - q).sum()]) for q in (on, off)])
        sizes = torch.tensor([len(on), len(off)], dtype=F64)
        rows = rows / (sizes.sum() if normalization == "joint" else sizes[:, None])
        s = torch.linalg.svdvals(rows.clamp(min=floor))
        values.append((s[0] / s[1]).log().clamp(max=-math.log(rtol)))
    return torch.stack(values)


def with_gradients(loss, *inputs):
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = loss(*leaves)
    weights = torch.arange(out.numel()).add(1).reshape(out.shape).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, leaves, weights)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(0, 2), st.integers(0, 99),
    st.sampled_from([(0.5, 0.5), (0.5, 0.3), (0.4, 0.6)]), st.sampled_from(["joint", "side"]),
    st.sampled_from([0.0, 1e-10, 0.2]), st.booleans(),
)  # fmt: skip
def test_equals_the_loop(lengths, gap, seed, thresholds, normalization, floor, own):
    a, b, f = batch(lengths, seed, gap)
    b = b if own else a
    ft, bt = thresholds
    options = {"normalization": normalization, "floor": floor}
    got = d2k.pdmi_snippet(a, f, background_attention=b if own else None, foreground_threshold=ft,
                           background_threshold=bt, **options)  # fmt: skip
    parts = a.unpack(), f.unpack(), b.unpack()
    torch.testing.assert_close(got.value, snippet_oracle(*parts, ft, bt, **options), rtol=1e-9, atol=1e-9)
    for i, (x, score, y) in enumerate(zip(*parts, strict=True)):
        on, off = x[score > ft], y[score < bt]
        assert (got.foreground_count[i], got.background_count[i]) == (len(on), len(off))
        assert got.foreground_mean[i].item() == pytest.approx(on.mean().item() if len(on) else 0, abs=1e-12)
        assert got.background_mean[i].item() == pytest.approx(off.mean().item() if len(off) else 0, abs=1e-12)


def two(m_f, m_b, **kwargs):
    """Value and gradient of one foreground and one background snippet."""
    attention = torch.tensor([m_f, m_b], dtype=F64, requires_grad=True)
    out = d2k.pdmi_snippet(attention, torch.tensor([0.9, 0.1]), offsets=torch.tensor([0, 2]), **kwargs)
    return out.value.item(), torch.autograd.grad(out.value, attention)[0].tolist()


@pytest.mark.parametrize("normalization", ["joint", "side"])
@pytest.mark.parametrize("distance", [*(s * 10.0**-k for k in (1, 4, 5, 6, 7, 12) for s in (1, -1)), 0.0])
def test_near_singular_to_every_digit(normalization, distance):
    m_b = 0.375
    m_f, rtol = m_b + distance, 1e-6
    with mpmath.workdps(60):
        w = mpmath.mpf(1) if normalization == "side" else mpmath.mpf(1) / 2

        def sigma(x, y):
            a, b, c, d = w * x, w * (1 - x), w * y, w * (1 - y)
            first = (mpmath.hypot(a + d, b - c) + mpmath.hypot(a - d, b + c)) / 2
            # sign(0) := +1, as documented: the signed σ₂ is smooth.
            return first, (1 if x0 >= y0 else -1) * (a * d - b * c) / first

        x0, y0 = mpmath.mpf(m_f), mpmath.mpf(m_b)
        s1, s2 = sigma(x0, y0)
        effective = max(s2, rtol * s1)
        want = float(mpmath.log(s1 / effective))
        slopes = [
            float(mpmath.diff(lambda *p: sigma(*p)[0], (x0, y0), n) / s1
                  - mpmath.diff(lambda *p: sigma(*p)[1], (x0, y0), n) / effective)
            for n in ((1, 0), (0, 1))
        ]  # fmt: skip
    value, gradient = two(m_f, m_b, normalization=normalization)
    assert value == pytest.approx(want, rel=1e-13) and value <= -math.log(rtol) * (1 + 1e-15)
    assert gradient == pytest.approx(slopes, rel=1e-12)
    assert 0 < max(map(abs, gradient)) < 1 / rtol
    assert (gradient[0] < 0) == (distance >= 0)


def test_at_its_bounds():
    assert two(1.0, 0.0) == (0.0, [0.0, 0.0])
    assert two(0.5, 0.5, rtol=1e-3)[0] == pytest.approx(math.log(1e3))
    value, gradient = two(1.0, 0.25, normalization="side", floor=1e-10)
    s = np.linalg.svd([[1, 1e-10], [0.25, 0.75]], compute_uv=False)
    assert value == pytest.approx(math.log(s[0] / s[1]), rel=1e-9) and all(map(math.isfinite, gradient))


def test_one_sided_and_empty():
    foreground = torch.tensor([0.9, 0.8, 0.1, 0.2, 0.5, 0.9, 0.1])
    attention = torch.rand(7, dtype=F64).requires_grad_()
    out = d2k.pdmi_snippet(attention, foreground, offsets=[0, 2, 4, 5, 5, 7])
    out.value.sum().backward()
    assert out.value[:4].tolist() == [0] * 4 and attention.grad[:5].tolist() == [0] * 5
    assert out.value[4] > 0 and attention.grad[5:].all()
    assert out.foreground_count.tolist() == [2, 0, 0, 0, 1] and out.background_count.tolist() == [0, 2, 0, 0, 1]
    assert d2k.pdmi_snippet(torch.zeros(3, requires_grad=True), torch.zeros(3), offsets=[0]).value.shape == (0,)


def test_forms_gaps_and_neighbours():
    a, b, f = batch([6, 9, 0, 3, 70], gap=2)
    dense, mask = f.padded(fill=NAN)
    inside = f.row_mask()

    def run(x, y, score, **form):
        return d2k.pdmi_snippet(x, score, background_attention=y, **form).value

    value, grad_a, grad_b = with_gradients(lambda x, y: run(a.with_values(x), b.with_values(y), f), a.values, b.values)
    assert not grad_a[~inside].any() and not grad_b[~inside].any()
    dirty = [r.values.masked_fill(~inside, NAN) for r in (a, b, f)]
    packed = with_gradients(lambda x, y: run(x, y, dirty[2], offsets=a.offsets, lengths=a.lengths), *dirty[:2])
    assert all(torch.equal(p, q) for p, q in zip(packed, (value, grad_a, grad_b), strict=True))
    for form in ({"lengths": f.lengths}, {"mask": mask}):
        padded = [r.padded(fill=NAN)[0] for r in (a, b)]
        got = with_gradients(lambda x, y, form=form: run(x, y, dense, **form), *padded)
        assert torch.equal(got[0], value)
        for g, want, r in ((got[1], grad_a, a), (got[2], grad_b, b)):
            assert torch.equal(g[mask], torch.cat(r.with_values(want).unpack())) and not g[~mask].any()
    for i, parts in enumerate(zip(a.unpack(), b.unpack(), f.unpack(), strict=True)):
        x, y, score = (d2k.Ragged.pack([p]) for p in parts)
        assert torch.equal(run(x, y, score), value[i : i + 1])
        _, alone = with_gradients(lambda v, x=x, y=y, score=score: run(x.with_values(v), y, score), x.values)
        assert torch.equal(alone * (i + 1), a.with_values(grad_a).unpack()[i]) or i == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_float64_rounded_once(dtype):
    a, b, f = batch([300, 17, 4000], dtype=dtype)

    def run(a, b, f):
        loss = lambda x: d2k.pdmi_snippet(a.with_values(x), f, background_attention=b).value  # noqa: E731
        return with_gradients(loss, a.values)

    (value, grad), (exact, slope) = run(a, b, f), run(*(r.to(F64) for r in (a, b, f)))
    assert value.dtype == grad.dtype == dtype
    assert torch.equal(value, exact.to(dtype)) and torch.equal(grad, slope.to(dtype))


@pytest.mark.parametrize(("normalization", "floor"), [("joint", 0.0), ("side", 0.45)])
def test_gradcheck_and_the_reference(normalization, floor):
    a, b, f = batch([6, 11, 8], seed=4)
    options = {"normalization": normalization, "floor": floor}

    def ours(x, y):
        return d2k.pdmi_snippet(a.with_values(x), f, background_attention=b.with_values(y), **options).value

    def plain(x, y):
        form = f.values, f.offsets, f.lengths
        return reference.pdmi_snippet(x, y, *form, joint=normalization == "joint", floor=floor)

    leaves = [r.values.clone().requires_grad_() for r in (a, b)]
    assert torch.autograd.gradcheck(ours, leaves)
    assert torch.autograd.gradcheck(lambda x: d2k.pdmi_snippet(a.with_values(x), f, **options).value, leaves[0])
    torch.testing.assert_close(with_gradients(ours, *leaves), with_gradients(plain, *leaves), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("of_rows", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_scores", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_compared_in_their_own_precision(of_rows, of_scores):
    a, b, _ = batch([40, 7, 90], dtype=of_rows, gap=1)
    near = torch.linspace(0.29, 0.31, len(a.values), dtype=F64)
    near[::3] = 0.3
    f = a.with_values(near.to(of_scores))
    options = {"foreground_threshold": 0.3, "background_threshold": 0.3}

    def run(x, y):
        return d2k.pdmi_snippet(a.with_values(x), f, background_attention=b.with_values(y), **options).value

    out = d2k.pdmi_snippet(a, f, background_attention=b, **options)
    on, off = (f.values > 0.3) & f.row_mask(), (f.values < 0.3) & f.row_mask()
    assert out.foreground_count.sum() == on.sum() and out.background_count.sum() == off.sum()
    assert out.value.dtype == out.foreground_mean.dtype == of_rows
    value, *grads = with_gradients(run, a.values, b.values)
    assert torch.equal(value, out.value)
    for grad, side in zip(grads, (on, off), strict=True):
        assert grad.any() and not grad[~side].any()


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(0, 300), max_size=6), st.integers(0, 3), st.integers(0, 99), st.booleans(),
    st.sampled_from([0.0, 1e-10, 0.2]), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_native_equals_the_reference(backend, lengths, gap, seed, joint, floor, dtype):
    if not lengths:
        return
    a, b, f = batch(lengths, seed, gap, dtype)
    args = a.values, b.values, f.values, a.offsets, a.lengths, 0.5, 0.4
    got = schema.pdmi_snippet(*args, joint, floor, 1e-6)
    want = reference.pdmi_snippet_forward(*args, joint, floor, 1e-6)
    tight = {"rtol": 1e-9, "atol": 1e-9} if dtype == F64 else {}
    torch.testing.assert_close(got[:5], want[:5], **tight)
    torch.testing.assert_close(got[5:], want[5:], rtol=1e-9, atol=1e-9)
    grad = torch.linspace(1, 2, len(lengths)).to(dtype)
    saved = a.values, f.values, a.offsets, a.lengths, *want[5:], 0.5, 0.4
    mine, theirs = schema.pdmi_snippet_backward(grad, *saved), reference.pdmi_snippet_backward(grad, *saved)
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_native_bits_depend_on_no_thread(backend):
    a, b, f = batch([1000, 0, 3] * 500, dtype=torch.float32)

    def run():
        return with_gradients(
            lambda x, y: d2k.pdmi_snippet(a.with_values(x), f, background_attention=b.with_values(y)).value,
            a.values, b.values,
        )  # fmt: skip

    threads, one = torch.get_num_threads(), run()
    try:
        torch.set_num_threads(7)
        many = run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(one, many, strict=True))


def test_second_derivative_raises():
    a, _, f = batch([6, 7])
    x = a.values.requires_grad_()
    (g,) = torch.autograd.grad(d2k.pdmi_snippet(a, f).value.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        g.square().sum().backward()


def test_opcheck_and_compile():
    a, b, f = batch([4, 7], dtype=torch.float32)
    args = (a.values, b.values, f.values, f.offsets, f.lengths, 0.5, 0.5, True, 0.0, 1e-6)
    torch.library.opcheck(schema.pdmi_snippet.op, args)
    slopes = schema.pdmi_snippet(*args)[5:]
    torch.library.opcheck(schema.pdmi_snippet_backward.op, (torch.randn(2), a.values, *args[2:5], *slopes, 0.5, 0.5))

    def loss(x, y):
        value = d2k.pdmi_snippet(a.with_values(x), f, background_attention=b.with_values(y)).value
        return value + d2k.pdmi_snippet(a.with_values(x), f).value.square()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    inputs = a.values, b.values
    torch.testing.assert_close(with_gradients(compiled, *inputs), with_gradients(loss, *inputs))


def golden(golden_dir, case):
    with np.load(golden_dir / f"losses_{case}.npz") as file:
        g = {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fi"}
    tcam, lengths = g["tcam"].requires_grad_(), torch.zeros_like(g["seq_len"])
    lengths[g["kept_videos"]] = g["seq_len"][g["kept_videos"]]
    own = tcam.masked_fill(g["labels"][:, None] == 0, 0).amax(2)
    score = (1 - F.cosine_similarity(g["emb"], g["x_ref_after"][None], dim=2, eps=1e-8)) / 2
    out = d2k.pdmi_snippet(
        own, score, background_attention=tcam.amax(2), lengths=lengths, normalization="side", floor=1e-10,
        background_threshold=0.3 if tcam.shape[2] == 100 else 0.5,
    )  # fmt: skip
    usable = (out.foreground_count > 0) & (out.background_count > 0)
    return g, out.value[usable].sum() / usable.sum().clamp(min=1), out.value[usable]


@pytest.mark.parametrize("case", ["basic_c20", "activitynet_gate", "short_unlabelled", "lds_none", "lds_skip"])
def test_golden_losses(golden_dir, case):
    g, loss, each = golden(golden_dir, case)
    torch.testing.assert_close(each, g["lds_per_video"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss, g["L_ds"], rtol=1e-9, atol=1e-12)
    want = g["grad_ds_tcam"]
    assert (torch.autograd.grad(loss, g["tcam"])[0] - want).abs().max() <= 1e-8 * want.abs().max()


@pytest.mark.parametrize("case", ["lds_rank1", "lds_rank1_exact"])
def test_golden_singular_joint_is_bounded(golden_dir, case):
    g, loss, each = golden(golden_dir, case)
    assert each.max().item() == pytest.approx(-math.log(1e-6)) and g["lds_per_video"].max() > 30
    assert 0 < torch.autograd.grad(loss, g["tcam"])[0].abs().max() < 1e6


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"normalization": "row"}, ValueError, "normalization must be 'joint' or 'side', got 'row'"),
        ({"floor": 1.0}, ValueError, r"floor must be at least 0 and below 1, got 1.0"),
        ({"floor": -0.1}, ValueError, r"floor must be at least 0 and below 1, got -0.1"),
        ({"rtol": 0.0}, ValueError, r"rtol must be above 0 and below 1, got 0.0"),
        ({"attention": torch.ones(11, 2)}, ValueError, r"attention must be float rows \(total,\), got .* \(11, 2\)"),
        ({"foreground": torch.ones(11).long()}, ValueError, "foreground must be float rows .* got torch.int64"),
        ({"foreground": torch.ones(7)}, ValueError, "foreground"),
        ({"background_attention": torch.ones(11).double()}, TypeError, "must be torch.float32 as attention, got"),
    ],
)
def test_errors_name_the_argument(kwargs, error, says):
    arguments = {"attention": torch.ones(11), "foreground": torch.ones(11), "offsets": torch.tensor([0, 4, 11])}
    with pytest.raises(error, match=f"pdmi_snippet: .*{says}"):
        d2k.pdmi_snippet(**arguments | kwargs)


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1.0, 1e160, 1e300])
@pytest.mark.parametrize("normalization", ["joint", "side"])
def test_attention_of_any_magnitude(factor, normalization):
    a, _, f = batch([9, 20], seed=3)
    value, slope = with_gradients(
        lambda x: d2k.pdmi_snippet(a.with_values(x), f, normalization=normalization).value, a.values * factor
    )
    assert value.isfinite().all() and slope.isfinite().all()
    want = []
    with mpmath.workdps(700):
        for x, y in zip((a.values * factor).split([9, 20]), f.values.split([9, 20]), strict=True):
            sides = [[mpmath.mpf(v.item()) for v in x[rows]] for rows in (y > 0.5, y < 0.5)]
            total = sum(map(len, sides)) if normalization == "joint" else 0
            joint = mpmath.matrix([[sum(s) / (total or len(s)), (len(s) - sum(s)) / (total or len(s))] for s in sides])
            joint = joint.apply(lambda v: max(v, mpmath.mpf(0)))
            squares = mpmath.svd_r(joint, compute_uv=False)
            want.append(float(min(mpmath.log(squares[0] / squares[1]) if squares[1] else mpmath.inf, -math.log(1e-6))))
    torch.testing.assert_close(value, torch.tensor(want, dtype=F64), rtol=1e-9, atol=1e-12)
