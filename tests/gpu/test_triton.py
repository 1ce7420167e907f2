"""The pooling ops' Triton kernels at full width: against float64, in graphs, on side streams, past 2**31 elements."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k

pytestmark = pytest.mark.gpu
LENGTHS = [48, 750, 0, 235, 1, 750, 333, 120]
TOTAL = sum(LENGTHS)
OPS = ("attention_pool", "foreground_score")


def cases(*ops):
    return [pytest.param(op, "triton", id=f"{op}-triton") for op in ops]


def normal(*shape, seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.float64)


def ragged(values):
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0).cuda()
    return d2k.Ragged(values, offsets, max_length=max(LENGTHS))


def problem(op, width=2048):
    """Inputs in float64, and the op as a function of them."""
    x = normal(TOTAL, width, seed=0)
    if op == "attention_pool":
        return (x, normal(TOTAL, 2, seed=1).sigmoid()), lambda x, a: d2k.attention_pool(ragged(x), ragged(a)).embedding
    return (x, normal(width, seed=2)), lambda x, r: d2k.foreground_score(ragged(x), r).values


def run(op, backend, call, inputs, dtype):
    leaves = [t.to(dtype).requires_grad_() for t in inputs]
    with d2k.backends.use(backend, op):
        out = call(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, normal(*out.shape, seed=9).to(dtype))]


@pytest.mark.parametrize(("op", "backend"), cases(*OPS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_full_width(op, backend, dtype):
    inputs, call = problem(op)
    inputs = [t.to(dtype).double() for t in inputs]
    want, own = (run(op, "reference", call, inputs, d) for d in (torch.float64, dtype))
    got, again = (run(op, backend, call, inputs, dtype) for _ in range(2))
    for g, w, o, a in zip(got, want, own, again, strict=True):
        assert torch.equal(g, a)
        assert (g.double() - w).norm() <= 2 * (o.double() - w).norm() + 4 * torch.finfo(dtype).eps * w.norm()


@pytest.mark.parametrize(("op", "backend"), cases(*OPS))
def test_replays_in_a_graph_and_runs_on_a_side_stream(op, backend):
    inputs, call = problem(op, width=256)
    want = run(op, backend, call, inputs, torch.float32)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        apart = run(op, backend, call, inputs, torch.float32)
    torch.cuda.current_stream().wait_stream(side)
    leaves = [t.float().requires_grad_() for t in inputs]
    seeds = normal(*want[0].shape, seed=9).float()
    graph = torch.cuda.CUDAGraph()
    with d2k.backends.use(backend, op), torch.cuda.graph(graph):
        out = call(*leaves)
        made = [out.detach(), *torch.autograd.grad(out, leaves, seeds)]
    graph.replay()
    torch.cuda.synchronize()
    for others in (apart, made):
        assert all(torch.equal(a, b) for a, b in zip(want, others, strict=True))


@pytest.mark.parametrize(("op", "backend"), cases("lowest_attention"))
def test_lowest_attention_of_a_day(op, backend):
    attention = normal(135_000, seed=5).float()
    offsets = torch.tensor([0, 5, 5, 135_000], device="cuda")
    with d2k.backends.use("reference", op):
        want = d2k.lowest_attention(attention, offsets=offsets)
    with d2k.backends.use(backend, op):
        assert torch.equal(d2k.lowest_attention(attention, offsets=offsets), want)


@pytest.mark.parametrize(("op", "backend"), cases(*OPS))
def test_past_two_to_the_31_elements(op, backend):
    rows, width = 2_200_000, 1024
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free device memory")
    x = torch.empty(rows, width, dtype=torch.bfloat16, device="cuda").normal_(generator=torch.Generator("cuda"))
    last = 1000
    offsets, short = torch.tensor([0, rows - last, rows]).cuda(), torch.tensor([0, last]).cuda()
    reference = normal(width, seed=1).bfloat16()
    attention = torch.rand(rows, device="cuda")

    def call(x, attention, offsets):
        if op == "attention_pool":
            return d2k.attention_pool(x, attention, offsets=offsets).embedding[-1]
        return d2k.foreground_score(x, reference, offsets=offsets)[-last:]

    with d2k.backends.use(backend, op):
        assert torch.equal(call(x, attention, offsets), call(x[-last:].clone(), attention[-last:], short))
