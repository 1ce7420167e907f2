"""Arrays that are neither NumPy's nor torch's, as CuPy's are: in and out by DLPack."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import d2kernels as d2k


class Array:
    """What a library of its own would have."""

    __module__ = "a_library.arrays"

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


@pytest.fixture(autouse=True)
def library(monkeypatch):
    module = ModuleType("a_library")
    module.from_dlpack = lambda tensor: Array(torch.from_dlpack(tensor))
    monkeypatch.setitem(sys.modules, "a_library", module)
    return module


SCORES = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
OFFSETS = torch.tensor([0, 18, 30])
SPANS = torch.tensor([[0.0, 3.0], [1.0, 3.0], [8.0, 9.0]])
CALLS = {
    "connected_components": lambda f: d2k.connected_components(f(SCORES), [0.5], offsets=f(OFFSETS)),
    "with capacity": lambda f: d2k.connected_components(
        scores=f(SCORES), thresholds=f(torch.tensor([0.5])), offsets=f(OFFSETS), capacity=40
    ),
    "localize": lambda f: d2k.localize(f(SCORES), thresholds=[0.3, 0.6], iou_threshold=0.5, offsets=f(OFFSETS)),
    "nms": lambda f: [d2k.nms(f(SPANS), f(torch.tensor([0.2, 0.4, 0.3])), 0.5)],
    "soft_nms": lambda f: d2k.soft_nms(f(SPANS), f(torch.tensor([0.2, 0.4, 0.3])), 0.5),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_arrays_of_a_library_give_arrays_of_it(name):
    want, got = CALLS[name](lambda x: x), CALLS[name](Array)
    pairs = zip(tree_leaves(got), tree_leaves(want), strict=True)
    assert all(type(g) is Array and torch.equal(g.tensor, w) for g, w in pairs)
    assert getattr(got, "_fields", None) == getattr(want, "_fields", None)


def test_arrays_beside_those_of_numpy_give_numpys():
    groups = torch.tensor([0, 1, 0])
    want = d2k.nms(SPANS, torch.tensor([0.2, 0.4, 0.3]), 0.5, groups)
    got = d2k.nms(SPANS.numpy(), np.array([0.2, 0.4, 0.3]), 0.5, groups=Array(groups))
    assert isinstance(got, np.ndarray) and got.tolist() == want.tolist()


def test_a_library_without_from_dlpack_gets_tensors(library):
    del library.from_dlpack
    (kept,) = CALLS["nms"](Array)
    assert torch.equal(kept, CALLS["nms"](lambda x: x)[0])


def test_numpy_and_torch_stay_as_they_are():
    assert type(CALLS["nms"](lambda x: x.numpy())[0]) is np.ndarray
    assert type(CALLS["nms"](lambda x: x)[0]) is torch.Tensor


def test_errors_are_the_function_s_own():
    with pytest.raises(ValueError, match="iou_threshold must be at least 0 and at most 1"):
        d2k.nms(Array(SPANS), Array(SPANS[:, 0]), 2.0)
