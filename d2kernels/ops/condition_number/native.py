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
    a: Tensor, b: Tensor | None, atol: float, rtol: float, log: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, inner = a.shape
    columns = inner if b is None else b.shape[2]
    if min(rows, inner, columns) > LARGEST[a.device.type]:
        return reference.condition_number_forward(a, b, atol, rtol, log)
    a, b = a.contiguous(), None if b is None else b.contiguous()
    value = a.new_empty(batch)
    slope_a = torch.empty_like(a, dtype=torch.float64)
    slope_b = a.new_empty(0, dtype=torch.float64) if b is None else torch.empty_like(b, dtype=torch.float64)
    inputs = a.data_ptr(), 0 if b is None else b.data_ptr(), batch, rows, 0 if b is None else inner, columns
    outputs = value.data_ptr(), slope_a.data_ptr(), slope_b.data_ptr()
    problem = (_native.dtype_number(a.dtype), *inputs, atol, rtol, log, *outputs)
    module = _native.module()
    if a.device.type == "cpu":
        module.condition_number_cpu(problem, torch.get_num_threads())
    else:
        workspace = a.new_empty(module.condition_number_workspace_cuda(problem, a.device.index), dtype=torch.uint8)
        stream = torch.cuda.current_stream(a.device).cuda_stream
        module.condition_number_cuda(problem, workspace.data_ptr(), workspace.numel(), a.device.index, stream)
    return value, slope_a, slope_b


def condition_number_backward(grad: Tensor, slope: Tensor) -> Tensor:
    """grad[i] slope[i], as the slopes of every op that keeps them need."""
    grad, slope = grad.contiguous(), slope.contiguous()
    out = torch.empty_like(slope, dtype=grad.dtype)
    batch = grad.numel()
    arguments = grad.data_ptr(), slope.data_ptr(), batch, slope.numel() // max(1, batch), out.data_ptr()
    module, dtype = _native.module(), _native.dtype_number(grad.dtype)
    if grad.device.type == "cpu":
        module.scale_slopes_cpu(dtype, *arguments, torch.get_num_threads())
    else:
        stream = torch.cuda.current_stream(grad.device).cuda_stream
        module.scale_slopes_cuda(dtype, *arguments, grad.device.index, stream)
    return out
