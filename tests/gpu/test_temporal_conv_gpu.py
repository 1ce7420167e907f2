"""temporal_conv's Triton kernels at full size, past 2³¹ elements, in a CUDA graph, on a side stream and compiled."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k

pytestmark = pytest.mark.gpu
LENGTHS = [750, 48, 0, 235, 1, 750]


def layer(dtype, lengths=LENGTHS, width=2048, c_out=None, kernel=3, groups=2, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    c_out = c_out or width

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device="cuda", dtype=dtype)

    offsets = torch.tensor([0, *lengths]).cumsum(0).cuda()
    weight = normal(c_out, width // groups, kernel) * (width // groups * kernel) ** -0.5
    leaves = [normal(sum(lengths), width), weight, normal(c_out)]
    return [t.requires_grad_() for t in leaves], offsets, normal(sum(lengths), c_out)


def step(leaves, offsets, seed, backend="triton", **options):
    if "dropout" in options:
        options["seed"] = torch.tensor([7], device="cuda")
    with d2k.backends.use(backend, "temporal_conv"):
        out = d2k.temporal_conv(*leaves, offsets=offsets, **options)
        return [out.detach(), *torch.autograd.grad(out, leaves, seed.to(out.dtype))]


LAYERS = [
    ({}, {"groups": 2, "negative_slope": 0.2, "residual": True}),
    ({"kernel": 5}, {"groups": 2, "negative_slope": 0.2, "dilation": 2}),
    ({"c_out": 40}, {"groups": 2}),
    ({}, {"groups": 2, "residual": True, "dropout": 0.5}),
    ({"c_out": 20}, {"groups": 2, "dropout": 0.7}),
    ({"c_out": 200, "kernel": 5}, {"groups": 2, "dilation": 2}),
    ({"width": 520, "c_out": 264, "groups": 1}, {"negative_slope": -0.1}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "options"), LAYERS)
def test_full_width(dtype, shape, options):
    leaves, offsets, seed = layer(dtype, **shape)
    # One branch for all precisions: a sum near 0 may round to either side.
    options = dict(options)
    slope = options.pop("negative_slope", None)
    exact = step([t.detach().double().requires_grad_() for t in leaves], offsets, seed, "reference", **options)
    low = step(leaves, offsets, seed, "reference", **options)
    for got, want, own in zip(step(leaves, offsets, seed, **options), exact, low, strict=True):
        error, allowed = ((t.double() - want).norm() / want.norm() for t in (got, own))
        assert error <= 2 * allowed + 2e-6, (float(error), float(allowed))
    if slope is not None:
        plain, active = (step(leaves, offsets, seed, **options, **s) for s in ({}, {"negative_slope": slope}))
        y = plain[0].double() - (leaves[0].double() if options.get("residual") else 0)
        want = torch.where(y > 0, y, y * slope) + (leaves[0].double() if options.get("residual") else 0)
        assert (active[0].double() - want).norm() <= 2e-2 * want.norm()
        theirs = step(leaves, offsets, seed, "reference", **options, negative_slope=slope)
        for got, want in zip(active, theirs, strict=True):
            assert abs(got.double().norm() / want.double().norm() - 1) < 0.02
            assert torch.nn.functional.cosine_similarity(got.double().flatten(), want.double().flatten(), 0) > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_do_not_matter_to_the_bit(dtype):
    options = {"groups": 2, "negative_slope": 0.2, "residual": True}
    leaves, offsets, seed = layer(dtype)
    whole = step(leaves, offsets, seed, **options)
    start, end = int(offsets[3]), int(offsets[4])
    alone = [leaves[0][start:end].detach().clone().requires_grad_(), *leaves[1:]]
    got = step(alone, torch.tensor([0, end - start], device="cuda"), seed[start:end], **options)
    assert torch.equal(got[0], whole[0][start:end]) and torch.equal(got[1], whole[1][start:end])


def test_tf32_is_a_choice():
    leaves, offsets, seed = layer(torch.float32)
    exact = step([t.detach().double().requires_grad_() for t in leaves], offsets, seed, "reference", groups=2)
    before, errors = torch.backends.cuda.matmul.fp32_precision, {}
    try:
        for how in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = how
            got = step(leaves, offsets, seed, groups=2)
            errors[how] = [float((a.double() - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True)]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert max(errors["ieee"]) < 5e-6 and errors["tf32"][0] > 5e-5 and max(errors["tf32"]) < 2e-3


def test_in_a_graph_and_on_a_side_stream():
    options = {"groups": 2, "negative_slope": 0.2, "residual": True}
    leaves, offsets, seed = layer(torch.bfloat16)
    want = step(leaves, offsets, seed, **options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = step(leaves, offsets, seed, **options)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step(leaves, offsets, seed, **options)
    with torch.no_grad():
        leaves[0].copy_(torch.randn_like(leaves[0]))
        offsets.copy_(torch.tensor([0, 100, 300, 300, 900, 1000, 1784]))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(got, step(leaves, offsets, seed, **options), strict=True))


def test_compiled():
    options = {"groups": 2, "negative_slope": 0.2, "residual": True}
    leaves, offsets, seed = layer(torch.bfloat16)
    call = torch.compile(lambda *t: d2k.temporal_conv(*t, offsets=offsets, **options), fullgraph=True)
    out = call(*leaves)
    got = [out.detach(), *torch.autograd.grad(out, leaves, seed)]
    assert all(torch.equal(a, b) for a, b in zip(got, step(leaves, offsets, seed, **options), strict=True))


def test_rows_past_two_to_the_31_elements():
    width, rows = 512, 2**22 + 300
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GB of GPU memory")
    lengths = [rows - 90, 0, 90]
    leaves, offsets, seed = layer(torch.bfloat16, lengths, width, groups=1)
    whole = step(leaves, offsets, seed, negative_slope=0.2, residual=True)
    end = [leaves[0][-90:].detach().clone().requires_grad_(), *leaves[1:]]
    tail = step(end, torch.tensor([0, 90], device="cuda"), seed[-90:], negative_slope=0.2, residual=True)
    assert torch.equal(whole[0][-90:], tail[0]) and torch.equal(whole[1][-90:], tail[1])
    wanted = seed.sum(0, dtype=torch.float32)
    plain = step(leaves, offsets, seed)
    assert (plain[3].float() - wanted).norm() <= 1e-2 * wanted.norm()
