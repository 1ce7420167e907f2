"""Calls that go straight to a backend, and what torch's dispatcher must see all the same."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import d2kernels as d2k
from d2kernels import _native
from d2kernels.ops import condition_number, pdmi, temporal_conv, topk_pool
from d2kernels.ops._library import _unseen
from d2kernels.ops.topk_pool import schema

OFFSETS = torch.tensor([0, 3, 5])


def arguments(scores):
    return scores, OFFSETS, OFFSETS.diff(), torch.tensor([2, 1])


def test_a_plain_call_is_direct_and_the_same():
    given = arguments(torch.rand(5, 2))
    assert _unseen([0, 1, 2, 3], given)
    assert all(torch.equal(a, b) for a, b in zip(schema.topk_pool(*given), schema.topk_pool.op(*given), strict=True))


def test_a_negated_views_numbers_are_taken():
    """Its memory holds the opposite of them."""
    z = torch.complex(torch.rand(5, 2), torch.rand(5, 2))
    negated = z.conj().imag
    assert negated.is_neg() and not _unseen([0], (negated,))
    got, want = (d2k.topk_pool(x, offsets=OFFSETS, k=2) for x in (negated, negated.clone()))
    assert torch.equal(got, want)
    leaf = torch.rand(5, 2, requires_grad=True)
    out = d2k.topk_pool(leaf, offsets=OFFSETS, k=2)
    grad = torch.complex(torch.rand(2, 2), torch.rand(2, 2)).conj().imag
    (a,), (b,) = (torch.autograd.grad(out, leaf, g, retain_graph=True) for g in (grad, grad.clone()))
    assert torch.equal(a, b)


@pytest.mark.parametrize("base", [TorchDispatchMode, TorchFunctionMode])
def test_modes_see_the_op(base):
    seen = []

    class Mode(base):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            seen.append(str(op))
            return op(*args, **(kwargs or {}))

        __torch_function__ = __torch_dispatch__

    with Mode():
        schema.topk_pool(*arguments(torch.rand(5, 2)))
    assert [name for name in seen if "topk_pool" in name]


def test_the_profiler_sees_the_op():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        schema.topk_pool(*arguments(torch.rand(5, 2)))
    assert any(event.key == "d2k::topk_pool" for event in profile.key_averages())


def test_a_subclass_and_other_devices_see_the_op():
    class Seen(torch.Tensor):
        pass

    assert not _unseen([0], (torch.rand(2).as_subclass(Seen),))
    assert not _unseen([0, 1], (torch.rand(2), torch.rand(2, device="meta")))
    assert _unseen([0, 1], (torch.nn.Parameter(torch.rand(2)), None))


def test_checkpointed_tensors_are_unpacked_once():
    """torch.utils.checkpoint hands a saved tensor out once a backward, also where that is differentiated."""
    scores = torch.rand(5, 2, requires_grad=True)

    def pooled(x):
        return d2k.topk_pool(x, offsets=OFFSETS, k=2).square().sum()

    (want,) = torch.autograd.grad(pooled(scores), scores)
    again = checkpoint(pooled, scores, use_reentrant=False)
    (got,) = torch.autograd.grad(again, scores, create_graph=True)
    assert torch.equal(got, want)
    with pytest.raises(RuntimeError, match="topk_pool has no second derivative"):
        got.sum().backward()


class Methods:
    """What the tensors of torch before 2.10 have: no C exchange API."""

    def __init__(self, x):
        self.contiguous, self.data_ptr, self.shape = lambda: Methods(x.contiguous()), x.data_ptr, x.shape


@pytest.mark.skipif(_native.extension()[0] is None, reason="no compiled extension")
@pytest.mark.parametrize("given", [lambda x: x, torch.nn.Parameter, Methods])
def test_csrc_takes_tensors_row_major_or_not(given):
    scores, lengths, module = torch.rand(5, 2), OFFSETS.diff(), _native.module()
    want = schema.topk_pool(scores, OFFSETS, lengths, None, 2)[0]
    spread = torch.stack([OFFSETS, OFFSETS + 9], 1)[:, 0]
    for rows in (scores, scores.t().contiguous().t(), scores.repeat(1, 2)[:, :2]):
        out = torch.empty(2, 2)
        problem = (given(rows), 0, 5, 2, spread, lengths, 2, None, 2, 1, 0)
        module.topk_pool_cpu(problem, out, None, 0, 0, 1)
        assert torch.equal(out, want)
    with pytest.raises(TypeError, match="a tensor that is written must be contiguous"):
        module.topk_pool_cpu(problem, torch.empty(2, 4)[:, :2], None, 0, 0, 1)
    for wrong in (1.5, "x", [scores]):
        with pytest.raises(TypeError, match="an address or a tensor is taken, not"):
            module.topk_pool_cpu((wrong, *problem[1:]), out, 0, 0, 0, 1)


@pytest.mark.skipif(_native.extension()[0] is None, reason="no compiled extension")
@pytest.mark.parametrize("count", [1, 300, 400])
def test_csrc_copies_few_elements_itself_and_many_by_torch(count):
    one, lengths = torch.rand(count, 3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([count])
    offsets = torch.tensor([0, count])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        rows = one.to(dtype)[:, :, 1]
        for view in (rows, rows.t().contiguous().t(), rows[:, :1].expand(-1, 3)):
            assert not view.is_contiguous() or count == 1
            got = schema.topk_pool(view, offsets, lengths, None, 2)[0]
            assert torch.equal(got, schema.topk_pool(view.contiguous(), offsets, lengths, None, 2)[0])
            want = view.double().topk(min(2, count), 0).values.mean(0, keepdim=True)
            torch.testing.assert_close(got, want.to(dtype))


class Counted(Methods):
    copies = 0

    def __init__(self, x):
        def contiguous():
            Counted.copies += 1
            return Methods(x.contiguous())

        self.contiguous, self.data_ptr, self.numel, self.is_cpu = contiguous, x.data_ptr, x.numel, x.is_cpu


@pytest.mark.skipif(_native.extension()[0] is None, reason="no compiled extension")
def test_what_is_asked_for_memory_copies_no_tensor():
    spread = Counted(torch.rand(5, 6)[:, ::2])
    layers = [(3, width, 1, 1, False, spread, None, None, None) for width in (3, 3, 2)]
    switches = (1, 1e-6, 0, False, False, *[1.0] * 5, True, True, *[0.5] * 4, True, 1e-6, 1e-6, False, False)
    options = (*switches, False, 0.0, True, True, 0.0, 0.0)
    rows = (OFFSETS.data_ptr(), OFFSETS.diff().data_ptr(), 2, 5, spread, spread, 1, 2)
    rules = (None, False, (0, 0, 0, 1.0), 8, False, 0.5, 0.5, True, True, False, spread, False, 1, 0.9, None, None)
    problem = (*rows, *layers, *rules, options)
    module = _native.module()
    assert module.objective_workspace_cpu(problem) > 0 and Counted.copies == 0
    with pytest.raises(TypeError, match="1 values given"):  # after it has read the problem, for which it copies
        module.objective_cpu(problem)
    assert Counted.copies > 0


def of_both():
    """Ops that keep something for a backward or not: their arguments up to that, and the first result that is kept."""
    scores, lengths, attention = torch.rand(5, 2), OFFSETS.diff(), torch.rand(5)
    conv = torch.rand(4, 2, 3), None, OFFSETS, lengths, 1, 1, 0.2, False, 0.0, None, 0
    labels = torch.rand(5, 2) > 0.4
    return {
        "topk_pool": (topk_pool.schema.topk_pool, (scores, OFFSETS, lengths, None, 0, 2, True), 1),
        "condition_number": (condition_number.schema.condition_number, (torch.rand(3, 2, 4), None, 0.0, 1e-9, True), 1),
        "pdmi_snippet": (
            pdmi.schema.pdmi_snippet,
            (attention, attention.clone(), torch.rand(5), OFFSETS, lengths, 0.5, 0.5, True, 0.0, 1e-6),
            5,
        ),
        "pdmi_video": (pdmi.schema.pdmi_video, (scores, labels, None, None, False, False, 0.0, 1e-9), 2),
        "temporal_conv": (temporal_conv.schema.temporal_conv, (torch.rand(5, 2), *conv), 1),
        "temporal_conv, dense": (
            temporal_conv.schema.temporal_conv,
            (torch.rand(2, 3, 2), *conv[:2], torch.tensor([0, 3, 6]), *conv[3:]),
            1,
        ),
    }


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", list(of_both()))
def test_nothing_is_kept_for_a_backward_that_will_not_come(name, backend):
    call, given, first = of_both()[name]
    with d2k.backends.use(backend):
        for wanted in (True, False):
            torch.library.opcheck(call.op, (*given, wanted))
        kept, dropped, direct = call.op(*given, True), call.op(*given, False), call(*given, False)
    assert all(torch.equal(a, b) for a, b in zip(kept[:first], dropped[:first], strict=True))
    assert any(x.numel() for x in kept[first:]) and not any(x.numel() for x in dropped[first:])
    assert all(torch.equal(a, b) for a, b in zip(kept[:first], direct[:first], strict=True))
    assert all(x is None or x.numel() == 0 for x in direct[first:])
