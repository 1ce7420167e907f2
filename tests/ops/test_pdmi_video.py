"""pdmi_video against the singular values of the joint that a loop builds, mpmath and golden losses."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.pdmi import reference, schema

NAN = float("nan")
F64 = torch.float64
OPTIONS = [
    {}, {"normalize_rows": True}, {"label_normalization": "class"},
    {"relative_floor": 0.2, "normalize_rows": True, "label_normalization": "class", "atol": 1e-5},
]  # fmt: skip
native_only = pytest.mark.skipif(not d2k.backends.can_run("pdmi", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "pdmi"):
        yield request.param


def batch(n=9, classes=6, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(n, classes, generator=generator, dtype=F64).to(dtype)
    labels = torch.rand(n, classes, generator=generator) < 0.4
    return p, labels, torch.rand(n, generator=generator) < 0.8


def with_gradients(loss, *inputs):
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = loss(*leaves)
    weights = torch.arange(out.numel()).add(1).reshape(out.shape).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, leaves, weights)


def oracle(p, labels, keep=None, relative_floor=None, normalize_rows=False, label_normalization="batch", atol=0):
    """Value, and its gradient by the singular vectors of the joint that loops build."""
    p = p.detach().double().requires_grad_()
    kept = [i for i in range(len(p)) if keep is None or keep[i]]
    joint = torch.zeros(p.shape[1], p.shape[1], dtype=F64)
    for i in kept:
        row = p[i]
        if relative_floor is not None:
            row = torch.stack([x if x > relative_floor * row.max() else x * 0 for x in row])
        if normalize_rows:
            row = row / row.sum()
        for c in range(p.shape[1]):
            count = sum(bool(labels[j, c]) for j in kept) if label_normalization == "class" else len(kept)
            if labels[i, c]:
                joint = joint + torch.eye(p.shape[1], dtype=F64)[c][:, None] * row / count
    u, s, vh = torch.linalg.svd(joint.detach())
    r = int((s > max(atol, s[0].item() * 1e-12)).sum()) - 1
    if r < 1:
        return torch.zeros((), dtype=F64), torch.zeros_like(p), r + 1
    slope = torch.outer(u[:, 0], vh[0]) / s[0] - torch.outer(u[:, r], vh[r]) / s[r]
    return (s[0] / s[r]).log(), torch.autograd.grad(joint, p, slope)[0], r + 1


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 99), st.sampled_from(OPTIONS), st.booleans(), st.booleans())
def test_equals_the_loop(n, classes, seed, options, masked, repeated):
    p, labels, keep = batch(n, classes, seed)
    keep = keep if masked else None
    if repeated:
        labels[:, -1] = labels[:, 0]
    got, grad = with_gradients(lambda x: d2k.pdmi_video(x, labels, keep=keep, **options).value, p)
    want, slope, rank = oracle(p, labels, keep, **options)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grad, slope, rtol=1e-8, atol=1e-8 * max(slope.abs().max().item(), 1e-9))
    assert d2k.pdmi_video(p, labels.float() * 2, keep=keep, **options).rank == rank


def test_drops_without_looking():
    p, labels, keep = batch()
    keep[2] = False
    dirty = p.masked_fill(~keep[:, None], NAN)
    got, grad = with_gradients(lambda x: d2k.pdmi_video(x, labels, keep=keep, **OPTIONS[3]).value, dirty)
    want, slope = with_gradients(lambda x: d2k.pdmi_video(x, labels[keep], **OPTIONS[3]).value, p[keep])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad[keep], slope, rtol=1e-9, atol=1e-12)
    assert not grad[~keep].any()


def test_of_nothing_and_of_nan():
    p, labels, _ = batch()
    bad = p.clone()
    bad[3, 1] = NAN
    for x, y, keep in ((p, labels & False, None), (p, labels, torch.zeros(9, dtype=torch.bool)), (bad, labels, None),
                       (p, labels | True, None), (bad / 0, labels, None), (p * 0, labels, None)):  # fmt: skip
        for options in OPTIONS:
            value, grad = with_gradients(lambda x, y=y, o=options, k=keep: d2k.pdmi_video(x, y, keep=k, **o).value, x)
            assert value == 0 and not grad.any()
    for shape in ((0, 6), (9, 0)):
        out = d2k.pdmi_video(torch.zeros(shape, requires_grad=True), torch.zeros(shape))
        out.value.backward()
        assert (out.value, out.rank) == (0, 0)


def test_floor_and_scale_by_hand():
    p = torch.tensor([[1.0, 0.25], [0.25, 1.0], [9.0, 9.0], [9.0, 9.0]], dtype=F64)
    labels, keep = torch.eye(2).repeat(2, 1), torch.tensor([True, True, False, False])
    assert d2k.pdmi_video(p, labels, keep=keep).value.item() == pytest.approx(math.log(1.25 / 0.75))
    # Exactly the floor is dropped, and the joint is then a multiple of the identity.
    assert d2k.pdmi_video(p, labels, keep=keep, relative_floor=0.25).value == 0
    # The joint is diag(1, 0.1) / 2 or, per class, diag(1, 0.1).
    p[:2] = torch.tensor([[1.0, 0.0], [0.0, 0.1]])
    for normalization, atol, rank in (("batch", 0.04, 2), ("batch", 0.06, 1), ("class", 0.06, 2), ("class", 0.2, 1)):
        assert d2k.pdmi_video(p, labels, keep=keep, label_normalization=normalization, atol=atol).rank == rank


@pytest.mark.parametrize("noise", [1.0, 1e-3])
def test_large_float32_keeps_six_digits(noise):
    p, labels, _ = batch(256, 20)
    p = (0.5 + noise * (p - 0.5)).float()
    (value, grad), (want, slope, _) = (
        with_gradients(lambda x: d2k.pdmi_video(x, labels).value, p), oracle(p, labels)
    )  # fmt: skip
    assert value.item() == pytest.approx(want.item(), rel=1e-6)
    assert (grad - slope).norm() < 1e-6 * slope.norm()


def test_near_singular():
    p, _, _ = batch(3, 3)
    p[2] = p[0] + 1e-8 * torch.tensor([1.0, -1, 1])
    with mpmath.workdps(50):
        s = mpmath.svd_r(mpmath.matrix(p.tolist()), compute_uv=False)
        want = float(mpmath.log(s[0] / s[2]))
    assert want > 16 and d2k.pdmi_video(p, torch.eye(3)).value.item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck_and_the_reference(options):
    p, labels, keep = batch()

    def ours(x):
        return d2k.pdmi_video(x, labels, keep=keep, **options).value

    def plain(x):
        flags = "normalize_rows" in options, "label_normalization" in options
        return reference.pdmi_video(
            x, labels, keep, options.get("relative_floor"), *flags, options.get("atol", 0), 1e-14
        )

    assert torch.autograd.gradcheck(ours, p.requires_grad_())
    torch.testing.assert_close(with_gradients(ours, p), with_gradients(plain, p), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.sampled_from([None, 0.0, 0.3]), st.booleans(),
    st.booleans(), st.sampled_from([0.0, 1e-5]), st.sampled_from([F64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_native_equals_the_reference(backend, n, classes, seed, floor, normalize, per_class, atol, dtype):
    p, labels, keep = batch(n, classes, seed, dtype)
    labels[:, -1] = labels[:, 0]
    args = p, labels, keep, floor, normalize, per_class, atol, 1e-12
    got, want = schema.pdmi_video(*args), reference.pdmi_video_forward(*args)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9 * (1 + want[2].abs().max().item()))


@pytest.mark.parametrize(("n", "classes"), [(300, 130), (97, 97), (1, 1), (3, 200), (200, 3)])
def test_sizes(n, classes):
    p, labels, _ = batch(n, classes)
    labels[:, 0] = torch.arange(n) == 0
    got, grad = with_gradients(lambda x: d2k.pdmi_video(x, labels).value, p)
    want, slope, rank = oracle(p, labels)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(grad, slope, rtol=1e-6, atol=1e-6 * max(slope.abs().max().item(), 1e-9))
    assert d2k.pdmi_video(p, labels).rank == rank


def test_second_derivative_raises():
    p, labels, _ = batch()
    (g,) = torch.autograd.grad(d2k.pdmi_video(p.requires_grad_(), labels).value.square(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        g.square().sum().backward()


def test_opcheck_and_compile():
    p, labels, keep = batch(dtype=torch.float32)
    args = (p, labels, keep, 0.2, True, True, 1e-5, 0.0)
    torch.library.opcheck(schema.pdmi_video.op, args)
    torch.library.opcheck(schema.pdmi_video_backward.op, (torch.randn(()), schema.pdmi_video(*args)[2]))

    def loss(x):
        return d2k.pdmi_video(x, labels, keep=keep, **OPTIONS[3]).value + d2k.pdmi_video(x, labels).value.square()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(with_gradients(compiled, p), with_gradients(loss, p))
    with torch.no_grad():
        torch.testing.assert_close(compiled(p), loss(p))


@pytest.mark.parametrize("case", ["basic_c20", "activitynet_gate", "short_unlabelled", "two_labels_rank1"])
def test_golden_losses(golden_dir, case):
    with np.load(golden_dir / f"losses_{case}.npz") as file:
        g = {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fi"}
    tcam = g["tcam"].requires_grad_()
    kept = torch.zeros(len(tcam), dtype=torch.bool)
    kept[g["kept_videos"]] = True
    p = d2k.topk_pool(tcam, divisor=4 if tcam.shape[2] == 100 else 8, lengths=g["seq_len"]).clamp(0.001, 0.999)
    loss = d2k.pdmi_video(p, g["labels"], keep=kept, **OPTIONS[3]).value
    torch.testing.assert_close(loss, g["L_dv"], rtol=1e-9, atol=1e-12)
    grad, want = torch.autograd.grad(loss, tcam)[0], g["grad_dv_tcam"]
    if case == "short_unlabelled":  # two snippets tie at a top-k boundary and share what the file gives to one
        grad, want = grad.sum(1), want.sum(1)
    assert (grad - want).abs().max() <= 1e-8 * want.abs().max()


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"p": torch.ones(4)}, r"p must be float \(n, C\), got torch.float32 \(4,\)"),
        ({"p": torch.ones(4, 3).long()}, r"p must be float \(n, C\), got torch.int64"),
        ({"labels": torch.ones(3, 3)}, r"labels must be \(4, 3\) as p, got \(3, 3\)"),
        ({"keep": torch.ones(4)}, r"keep must be bool \(4,\), got torch.float32 \(4,\)"),
        ({"keep": torch.ones(3, dtype=torch.bool)}, r"keep must be bool \(4,\), got torch.bool \(3,\)"),
        ({"relative_floor": 1.0}, r"relative_floor must be at least 0 and below 1, got 1.0"),
        ({"label_normalization": "row"}, "label_normalization must be 'batch' or 'class', got 'row'"),
        ({"atol": -1.0}, "atol must be at least 0, got -1.0"),
        ({"rtol": NAN}, "rtol must be at least 0, got nan"),
    ],
)
def test_errors_name_the_argument(kwargs, says):
    with pytest.raises(ValueError, match=f"pdmi_video: {says}"):
        d2k.pdmi_video(**{"p": torch.ones(4, 3), "labels": torch.ones(4, 3)} | kwargs)


@pytest.mark.parametrize("power", [-900, -500, 500, 1023])
@pytest.mark.parametrize("options", OPTIONS[:3])
def test_a_power_of_two_changes_the_slope_alone(power, options):
    p, labels, keep = batch()
    value, slope = with_gradients(lambda x: d2k.pdmi_video(x, labels, keep=keep, **options).value, p)
    scaled = p * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    got, grad = with_gradients(lambda x: d2k.pdmi_video(x, labels, keep=keep, **options).value, scaled)
    assert torch.equal(got, value)
    torch.testing.assert_close(grad * 2.0 ** (power // 2) * 2.0 ** (power - power // 2), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_rows_whose_sum_is_not_positive_stay_as_they_are(backend):
    if not d2k.backends.can_run("pdmi", backend):
        pytest.skip("no compiled extension")
    p = torch.tensor([[-0.3, 0.1, 0.05], [0.4, 0.3, 0.2], [0.1, 0.6, 0.2]], dtype=torch.float64)
    labels = torch.eye(3, dtype=torch.bool)

    def defined(x):
        total = x.sum(1, keepdim=True)
        s = torch.linalg.svdvals(torch.where(total > 0, x / total, x) / 3)
        return s[0].log() - s[-1].log()

    with d2k.backends.use(backend, "pdmi"):
        got, grad = with_gradients(lambda x: d2k.pdmi_video(x, labels, normalize_rows=True).value, p)
    want, slope = with_gradients(defined, p)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    torch.testing.assert_close(grad, slope, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([(1, 1), (3, 5), (9, 4), (12, 12), (70, 6), (130, 20), (6, 70)]),
    st.integers(-1074, 1023),
    st.sampled_from([(None, False), (0.2, False), (None, True), (0.2, True)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 1e-300, 1e-3]),
    st.integers(0, 10**6),
)
def test_a_value_is_the_same_with_and_without_gradients(backend, size, power, rule, per_class, signed, atol, seed):
    """Slopes that are not finite make it 0, whoever asks for them."""
    draw = torch.Generator().manual_seed(seed)
    p = torch.rand(size, generator=draw, dtype=torch.float64)
    p = (p - 0.5 if signed else p) * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    labels, keep = torch.rand(size, generator=draw) < 0.3, torch.rand(size[:1], generator=draw) < 0.9
    args = p, labels, keep if seed % 2 else None, *rule, per_class, atol, 1e-13
    value, rank, _ = schema.pdmi_video(*args, True)
    alone, its_rank, _ = schema.pdmi_video(*args, False)
    assert torch.equal(alone, value) and torch.equal(its_rank, rank)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize(("power", "undefined"), [(-1010, False), (-1060, True)])
def test_slopes_past_the_largest_number_make_the_value_0(backend, power, undefined):
    p = torch.rand(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2.0**power
    labels = torch.eye(4, dtype=torch.bool)[torch.arange(12) % 4]
    for for_backward in (False, True):
        value, rank, _ = schema.pdmi_video(p, labels, None, None, False, False, 0.0, 0.0, for_backward)
        assert (value.item() == 0) == undefined and rank.item() == (0 if undefined else 4)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(14, 60),
    st.integers(14, 60),
    st.sampled_from(["uniform", "signed", "graded classes", "graded videos", "alike", "diagonal"]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([0.0, 1e-3, 0.05]),
    st.sampled_from([{}, {"normalize_rows": True}, {"relative_floor": 0.2, "per_class": True}]),
    st.integers(0, 10**6),
)
def test_a_value_alone_is_that_of_all_singular_values(backend, n, classes, kind, dtype, rtol, rule, seed):
    """Found by bisection where the joint's condition allows it, to the last place of float32."""
    draw = torch.Generator().manual_seed(seed)
    p = torch.rand(n, classes, generator=draw)
    if kind == "signed":
        p -= 0.5
    elif kind == "graded classes":
        p *= torch.logspace(0, -8, classes)
    elif kind == "graded videos":
        p *= torch.logspace(0, -30, n)[:, None]
    elif kind == "alike":
        p[:, :4] = p[:, :1] + 1e-5 * p[:, :4]
    elif kind == "diagonal":
        p = torch.eye(n, classes) + 1e-3 * p
    p, labels = p.to(dtype), torch.rand(n, classes, generator=draw) < 0.2
    args = p, labels, None, rule.get("relative_floor"), "normalize_rows" in rule, "per_class" in rule, 0.0, rtol
    value, rank, _ = schema.pdmi_video(*args, True)
    alone, its_rank, _ = schema.pdmi_video(*args, False)
    assert rank == its_rank
    torch.testing.assert_close(alone, value, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize(("n", "classes"), [(100, 100), (130, 101), (99, 140), (300, 257)])
@pytest.mark.parametrize("alike", [False, True])
def test_a_value_of_large_joints(backend, n, classes, alike):
    p = torch.rand(n, classes, generator=torch.Generator().manual_seed(1))
    if alike:  # so badly conditioned that all values are needed
        p[:, 1] = p[:, 0] * (1 + 1e-6 * p[:, 1])
    labels = torch.eye(classes, dtype=torch.bool)[torch.arange(n) % classes]
    args = p, labels, None, None, False, False, 0.0, 1e-13
    value, rank, slope = schema.pdmi_video(*args, False)
    want, its_rank, _ = reference.pdmi_video_forward(*args, False)
    assert slope is None and rank == its_rank
    torch.testing.assert_close(value, want, rtol=2e-6, atol=0)
