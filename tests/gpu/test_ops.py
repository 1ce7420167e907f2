"""Every op on a GPU, by each backend that can run there, against the reference in float64 on the CPU."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k
from d2kernels.verify.check import check

pytestmark = pytest.mark.gpu
LENGTHS = [1, 0, 7, 33, 750, 5, 2049]
TOTAL, CLASSES, WIDTH = sum(LENGTHS), 20, 64


def random(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = random(TOTAL, WIDTH, seed=0) * 2 - 1
SCORES = random(TOTAL, CLASSES, seed=1)
ROWS = random(TOTAL, seed=2)
LABELS = random(len(LENGTHS), CLASSES, seed=3) < 0.2
MATRICES = random(64, 20, 7, seed=4)
WEIGHT = (random(WIDTH, WIDTH // 2, 3, seed=5) * 2 - 1) * 0.1
REFERENCE = random(WIDTH, seed=6)

# Op to (differentiable inputs, call); `ragged` packs rows.
DIFFERENTIABLE = {
    "temporal_conv": (
        (X, WEIGHT),
        lambda ragged, x, w: d2k.temporal_conv(ragged(x), w, groups=2, negative_slope=0.2, residual=True).values,
    ),
    "topk_pool": ((SCORES,), lambda ragged, s: d2k.topk_pool(ragged(s))),
    "attention_pool": ((X, ROWS), lambda ragged, x, a: d2k.attention_pool(ragged(x), ragged(a)).embedding),
    "foreground_score": ((X, REFERENCE), lambda ragged, x, r: d2k.foreground_score(ragged(x), r).values),
    "condition_number": ((MATRICES,), lambda ragged, a: d2k.condition_number(a, log=True)),
    "pdmi": (
        (ROWS,),
        lambda ragged, a: d2k.pdmi_snippet(ragged(a), (a.detach() * 7.3) % 1).value,
    ),
    "svd": ((MATRICES,), lambda ragged, a: d2k.svdvals(a)),
}
BACKENDS = ("reference", "native", "triton")
# Their references call torch.linalg, which waits for the GPU.
WAITING = {("svd", "reference"), ("condition_number", "reference")}


def able(op):
    return [b for b in BACKENDS if d2k.backends.can_run(op, b, "cuda")] if torch.cuda.is_available() else ["reference"]


def cases(ops, but=()):
    chosen = [(op, backend) for op in ops for backend in able(op) if (op, backend) not in but]
    return [pytest.param(op, backend, id=f"{op}-{backend}") for op, backend in chosen]


def ragged_on(device):
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0).to(device)
    return lambda values: d2k.Ragged(values, offsets, max_length=max(LENGTHS))


def close(got, want, low):
    """Relative error at most twice what the reference itself makes in the low precision, plus rounding."""
    error = (got.double().cpu() - want).norm() / want.norm().clamp(min=1e-30)
    own = (low.double() - want).norm() / want.norm().clamp(min=1e-30)
    assert error <= 2 * own + 2e-6, (float(error), float(own))


@pytest.mark.parametrize(("op", "backend"), cases(DIFFERENTIABLE))
def test_values_and_gradients(op, backend):
    inputs, call = DIFFERENTIABLE[op]

    def run(device, dtype, chosen):
        leaves = [t.to(device, dtype).requires_grad_() for t in inputs]
        with d2k.backends.use(chosen, op):
            out = call(ragged_on(device), *leaves)
            seeds = random(*out.shape, seed=9).to(device, dtype)
            return [out.detach(), *torch.autograd.grad(out, leaves, seeds)]

    want, low = run("cpu", torch.float64, "reference"), run("cpu", torch.float32, "reference")
    got = run("cuda", torch.float32, backend)
    for g, w, own in zip(got, want, low, strict=True):
        close(g, w, own)


@pytest.mark.parametrize(("op", "backend"), cases(DIFFERENTIABLE, WAITING))
def test_repeats_to_the_bit_without_synchronising(op, backend):
    inputs, call = DIFFERENTIABLE[op]
    leaves = [t.to("cuda", torch.float32).requires_grad_() for t in inputs]
    ragged = ragged_on("cuda")

    def run():
        out = call(ragged, *leaves)
        return [out.detach(), *torch.autograd.grad(out.sum(), leaves)]

    with d2k.backends.use(backend, op):
        first = run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            second = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


SIZES = ("small", "odd", "target")


@pytest.mark.parametrize(("op", "backend"), cases(d2k.backends.OPS, {(op, "reference") for op in d2k.backends.OPS}))
def test_what_users_check(op, backend):
    assert check(op, backend, torch.device("cuda"), SIZES) > 0


@pytest.mark.parametrize(("op", "backend"), cases(["connected_components"]))
def test_components(op, backend):
    levels = [0.2, 0.5, 0.9]
    with d2k.backends.use("reference", op):
        want = d2k.connected_components(ragged_on("cpu")(SCORES.float()), levels)
    with d2k.backends.use(backend, op):
        got = d2k.connected_components(ragged_on("cuda")(SCORES.float().cuda()), levels)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(("op", "backend"), cases(["localize"]))
def test_localize(op, backend):
    def run(device):
        return d2k.localize(
            ragged_on(device)(SCORES.float().to(device)), thresholds=[0.3, 0.6, 0.9], iou_threshold=0.4, min_length=2
        )

    want = run("cpu")
    with d2k.backends.use(backend, op):
        got = run("cuda")
    for name in ("sequence", "label", "start", "end", "count"):
        assert torch.equal(getattr(got, name).cpu(), getattr(want, name)), name
    torch.testing.assert_close(got.score.cpu(), want.score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("op", "backend"), cases(["nms"]))
def test_nms(op, backend):
    start, scores = random(500, seed=7) * 100, random(500, seed=8)
    segments = torch.stack([start, start + 10], 1)
    groups = torch.arange(500) % 4
    want = d2k.nms(segments, scores, 0.3, groups)
    with d2k.backends.use(backend, op):
        got = d2k.nms(segments.cuda(), scores.cuda(), 0.3, groups.cuda())
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize(("op", "backend"), cases(["nms"]))
@pytest.mark.parametrize("count", [1, 64, 65, 5000])
def test_nms_of_one_group_over_many_rounds(op, backend, count):
    start = random(count, seed=13) * count
    segments, scores = torch.stack([start, start + random(count, seed=14) * 30], 1), random(count, seed=15)
    with d2k.backends.use("reference", op):
        want, (kept, decayed) = d2k.nms(segments, scores, 0.5), d2k.soft_nms(segments, scores, 0.3)
    with d2k.backends.use(backend, op):
        got, soft = d2k.nms(segments.cuda(), scores.cuda(), 0.5), d2k.soft_nms(segments.cuda(), scores.cuda(), 0.3)
    assert torch.equal(got.cpu(), want)
    assert torch.equal(soft[0].cpu(), kept)
    torch.testing.assert_close(soft[1].cpu(), decayed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("op", "backend"), cases(["lowest_attention"]))
def test_lowest_attention(op, backend):
    want = d2k.lowest_attention(ragged_on("cpu")(ROWS))
    with d2k.backends.use(backend, op):
        assert torch.equal(d2k.lowest_attention(ragged_on("cuda")(ROWS.cuda())).cpu(), want)


@pytest.mark.parametrize(("op", "backend"), cases(["pdmi"]))
@pytest.mark.parametrize(
    "options", [{}, {"relative_floor": 0.2, "normalize_rows": True, "label_normalization": "class"}]
)
def test_pdmi_video(op, backend, options):
    def run(device):
        p = random(len(LENGTHS), CLASSES, seed=10).to(device).requires_grad_()
        out = d2k.pdmi_video(p, LABELS.to(device), **options)
        return out.value.detach(), out.rank, *torch.autograd.grad(out.value, p)

    with d2k.backends.use("reference", op):
        want = run("cpu")
    with d2k.backends.use(backend, op):
        got = run("cuda")
    torch.testing.assert_close([x.cpu() for x in got], list(want), rtol=1e-9, atol=1e-9)


# Shared memory, the workspace, every number of threads, and both factored plans.
@pytest.mark.parametrize(("op", "backend"), cases(["condition_number"]))
@pytest.mark.parametrize("shape", [(300, 2, 0, 2), (5, 1, 0, 4), (7, 5, 0, 9), (40, 20, 10, 20), (3, 30, 40, 25),
                                   (2, 64, 0, 50), (2, 128, 0, 128), (2, 128, 100, 128)])  # fmt: skip
def test_condition_number_of_every_size(op, backend, shape):
    batch, m, inner, n = shape
    a = random(batch, m, inner or n, seed=11) - 0.5
    b = (random(batch, inner, n, seed=12) - 0.5,) if inner else ()

    def run(device):
        leaves = [x.to(device).requires_grad_() for x in (a, *b)]
        out = d2k.condition_number(*leaves, rtol=1e-11, log=True)
        return out.detach(), *torch.autograd.grad(out.sum(), leaves)

    with d2k.backends.use("reference", op):
        want = run("cpu")
    with d2k.backends.use(backend, op):
        got = run("cuda")
    for g, w in zip(got, want, strict=True):
        assert (g.cpu() - w).norm() <= 1e-8 * w.norm()


@pytest.mark.parametrize(("op", "backend"), cases(["svd"]))
@pytest.mark.parametrize("shape", [(300, 2, 2), (5, 1, 4), (7, 9, 5), (40, 20, 30), (3, 50, 64), (2, 128, 128)])
def test_svd_of_every_size(op, backend, shape):
    a = random(*shape, seed=13) - 0.5
    a[:, 0] = a[:, -1]
    with d2k.backends.use(backend, op):
        u, s, vh = (x.cpu() for x in d2k.svd(a.cuda()))
    k = min(shape[1:])
    eye = torch.eye(k, dtype=torch.float64).expand(shape[0], k, k)
    got = ((u * s[:, None]) @ vh, u.mT @ u, vh @ vh.mT, s)
    torch.testing.assert_close(got, (a, eye, eye, torch.linalg.svdvals(a)), rtol=1e-11, atol=1e-12 * max(shape))


@pytest.mark.parametrize(("op", "backend"), cases(["svd"]))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(300, 2, 2), (0, 3, 2), (5, 1, 4), (7, 9, 5), (40, 20, 30), (3, 50, 64), (2, 128, 128)]
)
def test_gradient_of_svd_of_every_size(op, backend, shape, dtype):
    a = random(*shape, seed=13) - 0.5
    a[:, 0] = a[:, -1]
    # By one set of vectors, since another one's have other signs.
    saved = [x.to(dtype) for x in torch.linalg.svd(a, full_matrices=False)]
    grads = [random(*x.shape, seed=14).to(dtype) for x in saved]
    function = d2k.backends.module(op, backend).svd_backward
    oracle = d2k.backends.module(op, "reference").svd_backward
    for given in ((0, 1, 2), (1,), (0,), (1, 2)):
        some = [g if i in given else None for i, g in enumerate(grads)]
        want = oracle(*some, *saved)
        got = function(*[None if x is None else x.cuda() for x in (*some, *saved)])
        rounding = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 2e-2)
        assert got.dtype == dtype and (got.cpu() - want).double().norm() <= rounding * want.double().norm()


@pytest.mark.parametrize(("op", "backend"), cases(["gather_rows", "head", "losses", "step_record", "tv_l1"]))
def test_ops_in_float32(op, backend):
    if backend == "reference":
        pytest.skip("the oracle itself")
    assert check(op, backend, torch.device("cuda"), ("small", "odd"))
