"""What one call costs on the host: each op on a few numbers, with and without grad, beside torch.empty_like."""

from __future__ import annotations

import pytest
import torch
from harness import Side, steps

import d2kernels as d2k
from d2kernels import backends

# One sequence of four rows, where every kernel is done at once.
SIZES = {"rows": 4, "classes": 2, "width": 8}


def inputs(device: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "scores": torch.rand(SIZES["rows"], SIZES["classes"], generator=generator).to(device),
        "x": torch.rand(SIZES["rows"], SIZES["width"], generator=generator).to(device),
        "attention": torch.rand(SIZES["rows"], generator=generator).to(device),
        "weight": torch.rand(SIZES["width"], SIZES["width"], 3, generator=generator).to(device),
        "matrix": torch.rand(1, 2, 2, generator=generator).to(device),
        "start": torch.rand(SIZES["width"], generator=generator).to(device),
    }


# Op to its differentiable inputs, the call on packed rows, and the same by eager torch for one sequence.
CALLS = {
    "topk_pool": (["scores"], lambda r, s: d2k.topk_pool(r(s), k=2), lambda s: s.topk(2, 0).values.mean(0)),
    "attention_pool": (
        ["x", "attention"],
        lambda r, x, a: d2k.attention_pool(r(x), r(a)).embedding,
        lambda x, a: (torch.where(a > 0.5, a, 0)[:, None] * x).sum(0),
    ),
    "foreground_score": (
        ["x", "start"],
        lambda r, x, s: d2k.foreground_score(r(x), s).values,
        lambda x, s: (1 - torch.nn.functional.cosine_similarity(x, s, dim=-1)) / 2,
    ),
    "temporal_conv": (
        ["x", "weight"],
        lambda r, x, w: d2k.temporal_conv(r(x), w).values,
        lambda x, w: torch.nn.functional.conv1d(x.t(), w, padding=1).t(),
    ),
    "condition_number": (
        ["matrix"],
        lambda r, a: d2k.condition_number(a, log=True),
        lambda a: torch.linalg.svdvals(a).log().diff().neg()[:, 0],
    ),
}


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("op", list(CALLS))
def test_overhead(contest, device, op, direction):
    names, call, eager = CALLS[op]
    given = inputs(device)
    leaves = [given[name] for name in names]
    offsets = torch.tensor([0, SIZES["rows"]], device=device)
    ragged = lambda values: d2k.Ragged(values, offsets, max_length=SIZES["rows"])  # noqa: E731
    with torch.no_grad():
        shape = call(ragged, *leaves)
    seeds = None if direction == "forward" else [torch.ones_like(shape)]
    with torch.no_grad():
        plain = [torch.ones_like(eager(*leaves))] if seeds else None
    run = steps(lambda *x: call(ragged, *x), leaves, seeds)
    eager_run = steps(eager, leaves, plain)

    def as_ours(out):
        return (out[0].reshape(shape.shape), *out[1:])

    def exact():
        with backends.use("reference", op):
            wide = [x.double() for x in leaves]
            return steps(lambda *x: call(ragged, *x), wide, [s.double() for s in seeds] if seeds else None)()

    backend = backends.select(op, device.type, torch.float32).__name__.rpartition(".")[2]
    contest(
        op=op,
        work="overhead",
        direction=direction,
        ours=Side(backend, run),
        peers=[
            Side("torch.empty_like", lambda: torch.empty_like(leaves[0]), checked=False),
            Side("eager torch", eager_run, as_ours),
        ],
        oracle=exact,
    )
