"""Values at the edge of what a kernel takes, on a GPU against the reference: one sequence, NaN, int64, range."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k

pytestmark = pytest.mark.gpu
INF, NAN = float("inf"), float("nan")
BACKENDS = ("reference", "native", "triton")
EPOCH = 1_700_000_000_000_000_000  # nanoseconds since 1970; float64 tells only every 256th apart


def cases(*ops):
    usable = [b for b in BACKENDS if torch.cuda.is_available() or b == "reference"]
    chosen = [(op, b) for op in ops for b in usable if d2k.backends.can_run(op, b, "cuda")]
    return [pytest.param(op, b, id=f"{op}-{b}") for op, b in chosen]


def random(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_sequence(op, total):
    """Inputs in float64 and a call of the op on one sequence of that many rows."""
    x, scores, attention = random(total, 24, seed=0) - 0.5, random(total, 5, seed=1), random(total, seed=2)
    weight, direction = random(24, 12, 3, seed=3) - 0.5, random(24, seed=4)

    def offsets(t):
        return torch.tensor([0, total], device=t.device)

    return {
        "temporal_conv": ((x, weight), lambda x, w: d2k.temporal_conv(x, w, groups=2, offsets=offsets(x))),
        "topk_pool": ((scores,), lambda s: d2k.topk_pool(s, offsets=offsets(s))),
        "attention_pool": ((x, attention), lambda x, a: d2k.attention_pool(x, a, offsets=offsets(x)).embedding),
        "foreground_score": ((x, direction), lambda x, r: d2k.foreground_score(x, r, offsets=offsets(x))),
        "pdmi": ((attention,), lambda a: d2k.pdmi_snippet(a, a.detach() * 7.3 % 1, offsets=offsets(a)).value),
    }[op]


def run(call, inputs, device, dtype):
    leaves = [t.to(device, dtype).requires_grad_() for t in inputs]
    out = call(*leaves)
    seeds = random(*out.shape, seed=9).to(device, dtype)
    return [t.cpu().double() for t in (out.detach(), *torch.autograd.grad(out, leaves, seeds))]


@pytest.mark.parametrize("total", [1, 2, 17, 333])
@pytest.mark.parametrize(
    ("op", "backend"), cases("temporal_conv", "topk_pool", "attention_pool", "foreground_score", "pdmi")
)
def test_one_sequence_of_rows_in_no_multiple_of_16(op, backend, total):
    inputs, call = one_sequence(op, total)
    with d2k.backends.use("reference", op):
        want, low = (run(call, inputs, "cpu", dtype) for dtype in (torch.float64, torch.float32))
    with d2k.backends.use(backend, op):
        got = run(call, inputs, "cuda", torch.float32)
    for g, w, o in zip(got, want, low, strict=True):
        assert (g - w).norm() <= 2 * (o - w).norm() + 2e-6 * w.norm()


@pytest.mark.parametrize(("op", "backend"), cases("lowest_attention"))
def test_the_lowest_of_one_sequence(op, backend):
    attention = torch.tensor([0.5, 0.25, NAN, 0.25, -INF], device="cuda")
    with d2k.backends.use(backend, op):
        found = [d2k.lowest_attention(attention[:i], offsets=[0, i]).tolist() for i in range(1, 6)]
    assert found == [[0], [1], [2], [2], [2]]


SPECIALS = {
    "NaN first": [NAN, 0.1, 0.2, 0.3],
    "infinities": [INF, -INF, 0.5, -INF, INF],
    "the largest": [1.7e308, -1.7e308, 1e308, 2.0**1009, -(2.0**1009)],
    "zeros": [0.0, -0.0, 5e-324, -5e-324],
    "all NaN": [NAN, NAN, NAN],
    "all lowest": [-INF, -INF],
}


@pytest.mark.parametrize("length", [0, 100, 7000])
@pytest.mark.parametrize("values", SPECIALS.values(), ids=SPECIALS.keys())
@pytest.mark.parametrize(("op", "backend"), cases("topk_pool"))
def test_topk_of_float64_specials(op, backend, values, length):
    scores = torch.tensor(values, dtype=torch.float64).repeat(1 + length // len(values))[:, None]
    for k in (1, 2, len(values)):
        offsets = torch.tensor([0, len(scores)])
        with d2k.backends.use("reference", op):
            want = d2k.topk_pool(scores, k=k, offsets=offsets)
        with d2k.backends.use(backend, op):
            got = d2k.topk_pool(scores.cuda(), k=k, offsets=offsets.cuda()).cpu()
        torch.testing.assert_close(got, want, rtol=1e-15, atol=0, equal_nan=True)


@pytest.mark.parametrize(("op", "backend"), cases("nms"))
def test_nms_of_int64_timestamps(op, backend):
    start = (random(800, seed=5) * 40_000).long()
    near = torch.stack([start, start + 1 + (random(800, seed=6) * 3000).long()], 1)
    scores, groups = random(800, seed=7), torch.arange(800) % 3
    with d2k.backends.use("reference", op):
        want, (kept, decayed) = d2k.nms(near, scores, 0.4, groups), d2k.soft_nms(near, scores, 0.3, groups)
    far, scores, groups = (near + EPOCH).cuda(), scores.cuda().requires_grad_(), groups.cuda()
    with d2k.backends.use(backend, op):
        assert torch.equal(d2k.nms(far, scores, 0.4, groups).cpu(), want)
        index, left = d2k.soft_nms(far, scores, 0.3, groups)
    assert torch.equal(index.cpu(), kept) and not left.requires_grad
    torch.testing.assert_close(left.cpu(), decayed, rtol=1e-12, atol=1e-12)


RULES = {"thresholds": [0.3, 0.6], "iou_threshold": 0.4}


@pytest.mark.parametrize("where", ["class_score", "infinite activations"])
@pytest.mark.parametrize(("op", "backend"), cases("localize"))
def test_scores_that_are_nan_are_an_error(op, backend, where):
    activations = random(300, 4, seed=8).float()
    given = {"class_score": torch.full((1, 4), NAN)} if where == "class_score" else {}
    if not given:
        activations[[20, 60], :2] = INF  # two proposals whose surroundings are infinite, and so are they
        activations[40, :2] = -INF
    on_gpu = {name: x.cuda() for name, x in given.items()}
    with d2k.backends.use("reference", op), pytest.raises(ValueError, match="NaN"):
        d2k.localize(activations, offsets=[0, 300], **given, **RULES)
    with d2k.backends.use(backend, op), pytest.raises(ValueError, match="NaN"):
        d2k.localize(activations.cuda(), offsets=torch.tensor([0, 300]).cuda(), **on_gpu, **RULES)
    torch.cuda.synchronize()  # and nothing was written elsewhere


@pytest.mark.parametrize(("op", "backend"), cases("localize", "connected_components"))
def test_activations_that_are_nan_are_above_nothing(op, backend):
    activations = random(300, 4, seed=9)
    activations[::7, 1:] = NAN

    def found(device):
        rows, offsets = activations.to(device), torch.tensor([0, 100, 100, 300], device=device)
        if op == "localize":
            return d2k.localize(rows, offsets=offsets, **RULES)
        return d2k.connected_components(rows, RULES["thresholds"], offsets=offsets)

    with d2k.backends.use("reference", op):
        want = found("cpu")
    with d2k.backends.use(backend, op):
        got = found("cuda")
    torch.testing.assert_close([x.cpu() for x in got], list(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("op", "backend"), cases("foreground_score"))
def test_rows_of_any_size(op, backend, dtype):
    sizes = torch.tensor([1e30, 1.0, 1e-30, 0.0])[:, None].repeat_interleave(3, 0)
    x, direction = ((random(12, 40, seed=10) - 0.5) * sizes).to(dtype), (random(40, seed=11) * 1e20).to(dtype)
    with d2k.backends.use("reference", op):
        want = d2k.foreground_score(x.double(), direction.double(), offsets=[0, 12])
    with d2k.backends.use(backend, op):
        got = d2k.foreground_score(x.cuda(), direction.cuda(), offsets=torch.tensor([0, 12]).cuda()).cpu().double()
    assert (got - want).norm() <= 2 * torch.finfo(dtype).eps * want.norm()


@pytest.mark.parametrize(("op", "backend"), cases("localize"))
def test_a_fixed_capacity_waits_for_nothing(op, backend):
    if backend == "reference":
        pytest.skip("it waits")
    activations = random(500, 6, seed=12).cuda()
    offsets = torch.tensor([0, 200, 500], device="cuda")
    rules = RULES | {"thresholds": torch.tensor(RULES["thresholds"], dtype=torch.float64, device="cuda")}
    mask = (random(2, 6, seed=13) < 0.6).cuda()
    with d2k.backends.use(backend, op):
        want = d2k.localize(activations, offsets=offsets, class_mask=mask, **rules)
        room = len(want.score) + 7
        d2k.localize(activations, offsets=offsets, class_mask=mask, capacity=room, **rules)
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = d2k.localize(activations, offsets=offsets, class_mask=mask, capacity=room, **rules)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got.count, want.count) and got.sequence[-7:].tolist() == [-1] * 7
    assert all(torch.equal(g[:-7], w) for g, w in zip(got[:5], want[:5], strict=True))
