"""What comparing a kernel with its reference must find, and that every op's inputs are right."""

from __future__ import annotations

import pytest
import torch

from d2kernels import backends
from d2kernels.verify import cases, check, compare

CPU = torch.device("cpu")


def able(op, backend):
    if not backends.can_run(op, backend):
        pytest.skip(f"{op} has no {backend} kernel here")
    return backends.module(op, backend)


@pytest.mark.parametrize("op", backends.OPS)
def test_every_op_is_checked_in_every_size_with_gradients_where_it_has_any(op):
    able(op, "native")
    assert check.check(op, "native", CPU, ("small", "odd")) >= 8
    found = list(cases.cases(op))
    assert {case.name.split(",")[0] for case in found} == set(cases.SIZES)
    assert any(len(case.lengths) == 1 for case in found) and any(0 in case.lengths for case in found)


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
@pytest.mark.parametrize("op", ["attention_pool", "foreground_score", "lowest_attention", "temporal_conv"])
def test_triton_kernels_pass_when_interpreted(op):
    able(op, "triton")
    assert check.check(op, "triton", CPU, ("small",)) >= 4


def _plus_one(right):
    return lambda *a: tuple(x + 1 for x in right(*a))


def _a_little_off(right):
    return lambda *a: tuple(x * (1 + 1e-4) if x.is_floating_point() else x for x in right(*a))


def _unsteady(right):
    calls = []

    def call(*arguments):
        calls.append(1)
        return tuple(x * (1 + 1e-7 * (len(calls) % 2)) if x.is_floating_point() else x for x in right(*arguments))

    return call


def _unwritten(right):
    def call(*arguments):
        out = right(*arguments)
        out[0].view(-1)[-1:] = float("nan")
        return out

    return call


@pytest.mark.parametrize("fault", [_plus_one, _a_little_off, _unsteady, _unwritten])
@pytest.mark.parametrize("name", ["topk_pool_forward", "topk_pool_backward"])
def test_a_bad_kernel_is_found(monkeypatch, fault, name):
    native = able("topk_pool", "native")
    right = getattr(native, name)
    if name.endswith("backward"):
        monkeypatch.setattr(native, name, lambda *a: fault(lambda *b: (right(*b),))(*a)[0])
    else:
        monkeypatch.setattr(native, name, fault(right))
    with pytest.raises(check.Wrong, match=r"result \d of \d (is off by|differs between two).*small, n = 1, 1, float"):
        check.check("topk_pool", "native", CPU, ("small",))


def test_a_missing_gradient_is_found(monkeypatch):
    native = able("foreground_score", "native")
    right = native.foreground_score_backward
    monkeypatch.setattr(native, "foreground_score_backward", lambda *a: tuple(x * 0 for x in right(*a)))
    with pytest.raises(check.Wrong, match="result 2 of 3 is off by 1,"):
        check.check("foreground_score", "native", CPU, ("small",))


def test_a_kernel_that_no_case_reaches_is_not_passed():
    with pytest.raises(check.Wrong, match="no case of it could be run"):
        check.check("topk_pool", "triton", CPU, ("small",))


@pytest.mark.parametrize("got", [torch.full((3,), 7.0), torch.full((3,), float("nan")), torch.zeros(4)])
def test_nothing_passes_for_zeros_but_zeros(got):
    zeros = torch.zeros(3)
    exact = compare.error(zeros, zeros)
    assert exact == 0
    assert not compare.error(got, zeros) <= compare.bound("float32", exact)
