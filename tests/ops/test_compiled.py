"""Every differentiable op under torch.compile in one graph, with gradients and without: what it gives by itself."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k
from d2kernels.ops.head import head
from d2kernels.ops.losses import losses
from d2net.config import make_config
from d2net.methods.d2net.losses.options import loss_options

pytestmark = pytest.mark.skipif(not torch._dynamo.is_dynamo_supported(), reason="torch.compile is not supported here")
OFFSETS = torch.tensor([0, 3, 9])
LABELS = torch.tensor([[True, False], [False, True]])
SCHEDULE = torch.tensor(1102)
OPTIONS = loss_options(make_config().loss, True, (2, 2))


def _losses(on, off, p, embedding):
    rows = {"foreground_attention": on, "background_attention": off, "foreground": on.detach()}
    fixed = {"iteration": SCHEDULE, "offsets": OFFSETS, "lengths": OFFSETS.diff(), "pairs_drawn": torch.ones(4, 2)}
    return losses(p, embedding, torch.ones(2, 2), LABELS, OPTIONS, **fixed, **rows)[0]


# Shapes of what takes gradients, and the call.
CALLS = {
    "topk_pool": ([(9, 2)], lambda s: d2k.topk_pool(s, offsets=OFFSETS)),
    "attention_pool": ([(9, 4), (9,)], lambda x, a: d2k.attention_pool(x, a, offsets=OFFSETS).embedding),
    "foreground_score": ([(9, 4), (4,)], lambda x, r: d2k.foreground_score(x, r, offsets=OFFSETS)),
    "temporal_conv": ([(9, 4), (4, 4, 3)], lambda x, w: d2k.temporal_conv(x, w, offsets=OFFSETS, negative_slope=0.2)),
    "condition_number": ([(3, 4, 4)], lambda a: d2k.condition_number(a, log=True)),
    "svd": ([(3, 4, 4)], lambda a: d2k.svdvals(a)),
    "pdmi_snippet": ([(9,)], lambda a: d2k.pdmi_snippet(a, 1 - a.detach(), offsets=OFFSETS).value),
    "pdmi_video": ([(2, 2)], lambda p: d2k.pdmi_video(p, LABELS).value),
    "head": (
        [(9, 4), (9, 4)],
        lambda z, l: head(d2k.Ragged(z, OFFSETS), l, streams=2, labels=LABELS).embedding,  # noqa: E741
    ),
    "losses": ([(9,), (9,), (2, 2), (2, 2, 4)], _losses),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("op", list(CALLS))
def test_in_one_graph_as_by_itself(op, grad):
    shapes, call = CALLS[op]
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.rand(shape, generator=generator, requires_grad=grad) for shape in shapes]
    torch._dynamo.reset()
    out = [f(*leaves) for f in (torch.compile(call, fullgraph=True, backend="aot_eager"), call)]
    assert torch.equal(*out)
    if grad:
        found = [torch.autograd.grad(x.sum(), leaves, allow_unused=True) for x in out]
        assert all(a is b or torch.equal(a, b) for a, b in zip(*found, strict=True))
    else:
        assert not out[0].requires_grad


@pytest.mark.parametrize("op", [op for op, (shapes, _) in CALLS.items() if shapes[0][0] == 9])
def test_any_number_of_rows_is_one_graph(op):
    shapes, call = CALLS[op]
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.rand(shape, generator=generator, requires_grad=True) for shape in shapes]
    torch._dynamo.reset()
    for x in leaves:
        if len(x) == 9:
            torch._dynamo.mark_dynamic(x, 0)  # an error where something fixes it
    assert torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves), call(*leaves))
