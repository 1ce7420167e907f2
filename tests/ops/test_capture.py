"""Graph capture of the ops of csrc, with no GPU: tensors without values in place of a GPU's, launches noted, not made.

What the compiled launchers call is checked where they run, by the capture of tests/gpuemu.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from d2kernels import _native, backends
from d2kernels.verify import cases

# What waits for a value; torch without CUDA finds no device to ask.
WAITS = (DataDependentOutputException, DynamicOutputShapeException, RuntimeError)
STREAM = 7  # no legacy default stream, which nothing may be launched on while another is captured
VARIABLE = {"nms_forward", "soft_nms_forward", "connected_components_forward", "localize_forward"}
NO_CUDA = ("temporal_conv", "attention_pool", "foreground_score", "lowest_attention")  # Triton's on a GPU
LAUNCHES = {
    "topk_pool": "topk_pool topk_pool_backward",
    "condition_number": "condition_number scale_slopes",
    "pdmi": "pdmi_snippet pdmi_snippet_backward pdmi_video scale_slopes",
    "svd": "svd svd_backward",
    "head": "head head_backward reference_score",
    "losses": "losses losses_backward",
    "step_record": "step_record",
    "connected_components": "connected_components_count connected_components_fill",
    "nms": "nms soft_nms",
    "localize": "localize_find localize_write",
    "tv_l1": "tv_l1",
    "gather_rows": "gather_rows",
}
COPIES_ITSELF = ("connected_components", "nms", "localize", "tv_l1", "gather_rows", "step_record")
AS_THEY_LIE = ("connected_components", "localize")  # whose scores csrc reads by their strides
needs_extension = pytest.mark.skipif(not backends.can_run("nms", "native"), reason="no compiled extension")


class NoCopies(TorchDispatchMode):
    """Refuses copies between the host's memory and the device's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)]
        if function._schema.name in ("aten::_to_copy", "aten::copy_"):
            assert len({x.device.type for x in (*given, out)}) == 1, "copies between host and device"
        return out


class Extension:
    """`_C` as it is with CUDA, of which every call is noted, and what it has to copy to have row-major memory."""

    def __init__(self):
        self.launched = set()
        self.copied = []

    def __getattr__(self, name):
        def call(*arguments):
            assert name.endswith("_cuda"), f"{name} of a tensor on a GPU"
            if name.endswith("_workspace_cuda"):
                return (64, 12) if name.startswith("connected_components") else 64
            assert arguments[-2:] == (0, STREAM), f"{name} is not launched on the current stream"
            self.launched.add(name.removesuffix("_cuda"))
            self.copied += spread(arguments)

        return call


def spread(x):
    """The tensors in a call's arguments that are not row-major."""
    if isinstance(x, tuple):
        return [tensor for part in x for tensor in spread(part)]
    return [x] if isinstance(x, torch.Tensor) and not x.is_contiguous() else []


def recorded(op, monkeypatch):
    """Calls of the op's native functions, forward and backward, that small cases make on the CPU."""
    module, calls = backends.module(op, "native"), {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.endswith(("_forward", "_backward")) and function.__module__.endswith(".native"):

            def note(*args, name=name, function=function):
                calls.setdefault(name, (function, args))
                return function(*args)

            monkeypatch.setattr(module, name, note)
    for case in cases.cases(op, ["small"]):
        inputs = [x.to(case.dtypes[0]).requires_grad_(not case.exact) for x in case.inputs]
        with backends.use("native", op):
            out = case.call(cases.ragged_on(torch.device("cpu"), case.lengths), *inputs)
            smooth = [x for x in ([out] if isinstance(out, torch.Tensor) else out) if x.requires_grad]
            if smooth:
                torch.autograd.grad(smooth, inputs, [torch.ones_like(x) for x in smooth], allow_unused=True)
    monkeypatch.undo()
    return calls


def _view(x, index):
    """x by the whole numbers and slices of an index, and the tensors that are left of it."""
    tensors, dim = [], 0
    for i in index if isinstance(index, tuple) else (index,):
        if isinstance(i, int):
            x = x.select(dim, i)
            continue
        if isinstance(i, slice):
            x = torch.ops.aten.slice(x, dim, i.start, i.stop, i.step or 1)
        elif i is None:
            x = x.unsqueeze(dim)
        else:
            tensors += [None] * (dim - len(tensors)) + [i]
        dim += 1
    return x, tensors


# Methods of a tensor, for which torch's own ask for a device.


def data_ptr(x):
    return 4096


def contiguous(x):
    return x if x.is_contiguous() else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def __getitem__(x, index):
    x, tensors = _view(x, index)
    return torch.ops.aten.index(x, tensors) if tensors else x


def __setitem__(x, index, value):
    x, tensors = _view(x, index)
    if tensors:
        torch.ops.aten.index_put_(x, tensors, value)
    else:
        torch.ops.aten.copy_(x, value) if isinstance(value, torch.Tensor) else x.fill_(value)


def on_gpu(x, apart):
    if isinstance(x, torch.Tensor):
        return torch.empty_strided(x.shape, [apart * step for step in x.stride()], dtype=x.dtype, device="cuda")
    return type(x)(on_gpu(each, apart) for each in x) if type(x) in (list, tuple) else x


@pytest.fixture
def gpu(monkeypatch):
    """Calls a function with its tensors on a GPU that is not there, their elements `apart`; returns the extension."""

    def run(op, function, *args, apart=1):
        extension, module = Extension(), backends.module(op, "native")
        with monkeypatch.context() as patch, FakeTensorMode(), torch.no_grad():
            patch.setattr(_native, "module", lambda: extension)
            if hasattr(module, "_module"):
                patch.setattr(module, "_module", lambda: extension)
            stream = SimpleNamespace(device_index=0, cuda_stream=STREAM)
            patch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
            for method in (data_ptr, contiguous, __getitem__, __setitem__):
                patch.setattr(FakeTensor, method.__name__, method, raising=False)
            given = [on_gpu(x, apart) for x in args]
            with NoCopies():
                function(*given)
        return extension

    return run


@needs_extension
@pytest.mark.parametrize("op", LAUNCHES)
def test_a_graph_can_capture_every_op(op, gpu, monkeypatch):
    calls, launched = recorded(op, monkeypatch), set()
    for name, (function, args) in calls.items():
        if name in VARIABLE:
            assert args[-1] is None
            with pytest.raises(WAITS):
                gpu(op, function, *args)
            args = (*args[:-1], 50)
        launched |= gpu(op, function, *args).launched
    assert launched == set(LAUNCHES[op].split())


@needs_extension
@pytest.mark.parametrize("op", LAUNCHES)
def test_no_input_is_copied_twice(op, gpu, monkeypatch):
    copied = []
    for name, (function, args) in recorded(op, monkeypatch).items():
        args = (*args[:-1], 50) if name in VARIABLE else args
        extension = gpu(op, function, *args, apart=2)
        given = [x for x in extension.copied if op not in AS_THEY_LIE or x.dim() != 2 or not x.is_floating_point()]
        assert len({id(x) for x in given}) == len(given), f"{name} has an input copied twice"
        copied += given
    assert copied or op in COPIES_ITSELF


def test_every_op_is_here_or_with_triton():
    assert {*LAUNCHES, *NO_CUDA} == set(backends.OPS)


def test_what_waits_is_refused(gpu):
    x = torch.arange(3.0)
    waits = (
        lambda x: x.sum().item(),
        lambda x: x[x > 1],
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: bool((x > 1).any()),
        lambda x: torch.tensor([1.0], device=x.device),
    )
    for wait in waits:
        with pytest.raises((AssertionError, *WAITS)):
            gpu("nms", wait, x)
    with pytest.raises(AssertionError, match="current stream"):
        gpu("nms", lambda x: _native.module().nms_cuda(x.data_ptr(), 0, 0), x)
