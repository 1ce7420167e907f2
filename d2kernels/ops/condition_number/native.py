"""condition_number through csrc; matrices whose every side is long through torch.linalg."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.condition_number import reference

LARGEST = {"cpu": 96, "cuda": 128}  # past it blocked algorithms are faster than Jacobi's


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype)


def condition_number_forward(
    a: Tensor, b: Tensor | None, atol: float, rtol: float, log: bool, for_backward: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    batch, rows, inner = a.shape
    columns = inner if b is None else b.shape[2]
    on_cpu = a.is_cpu
    if min(rows, inner, columns) > LARGEST["cpu" if on_cpu else "cuda"]:
        return reference.condition_number_forward(a, b, atol, rtol, log, for_backward)
    value, slope_a, slope_b = a.new_empty(batch), None, None
    if for_backward:
        slope_a = a.new_empty(*a.shape, dtype=torch.float64)
        slope_b = None if b is None else a.new_empty(*b.shape, dtype=torch.float64)
    inputs = a, b, batch, rows, 0 if b is None else inner, columns
    problem = (_native.dtype_number(a.dtype), *inputs, atol, rtol, log, value, slope_a, slope_b)
    module = _native.module()
    if on_cpu:
        module.condition_number_cpu(problem, torch.get_num_threads())
    else:
        workspace = a.new_empty(module.condition_number_workspace_cuda(problem, a.device.index), dtype=torch.uint8)
        stream = torch.cuda.current_stream(a.device).cuda_stream
        module.condition_number_cuda(problem, workspace.data_ptr(), workspace.numel(), a.device.index, stream)
    return value, slope_a, slope_b


def condition_number_backward(grad: Tensor, slope: Tensor) -> Tensor:
    """grad[i] slope[i], as the slopes of every op that keeps them need."""
    out, batch = grad.new_empty(*slope.shape), grad.numel()
    arguments = grad, slope, batch, slope.numel() // max(1, batch), out
    module, dtype = _native.module(), _native.dtype_number(grad.dtype)
    if grad.is_cpu:
        module.scale_slopes_cpu(dtype, *arguments, torch.get_num_threads())
    else:
        stream = torch.cuda.current_stream(grad.device).cuda_stream
        module.scale_slopes_cuda(dtype, *arguments, grad.device.index, stream)
    return out
