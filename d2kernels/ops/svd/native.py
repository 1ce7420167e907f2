"""svd through csrc, in float64 for every dtype; on the CPU large matrices through torch.linalg, gradients excepted."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native
from d2kernels.ops.svd import reference

__all__ = ["svd_backward", "svd_forward", "svdvals_forward", "why_not"]

# Past these LAPACK is faster than our Jacobi, by benchmarks/bench_svd.py: by size alone, never by the batch. Singular
# values without vectors cost LAPACK a third.
LARGEST = {"cpu": 32, "cuda": 128}
LARGEST_VALUES, LONGEST_VALUES = 12, 32


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype)


def svdvals_forward(a: Tensor) -> Tensor:
    few = min(a.shape[1:]) <= LARGEST_VALUES and max(a.shape[1:]) <= LONGEST_VALUES
    return svd_forward(a)[1] if few or not a.is_cpu else reference.svdvals_forward(a)


def svd_forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, columns = a.shape
    k = min(rows, columns)
    if k > LARGEST["cpu" if a.is_cpu else "cuda"]:
        return reference.svd_forward(a)
    u, s, vh = a.new_empty(batch, rows, k), a.new_empty(batch, k), a.new_empty(batch, k, columns)
    problem = _native.dtype_number(a.dtype), a, batch, rows, columns, u, s, vh
    module = _native.module()
    if a.is_cpu:
        failed = module.svd_cpu(problem, torch.get_num_threads())
        if failed >= 0:
            raise torch.linalg.LinAlgError(f"svd: matrix {failed} of the batch has NaN or infinity")
    else:
        workspace = a.new_empty(module.svd_workspace_cuda(problem, a.device.index), dtype=torch.uint8)
        stream = torch.cuda.current_stream(a.device).cuda_stream
        module.svd_cuda(problem, workspace.data_ptr(), workspace.numel(), a.device.index, stream)
    return u, s, vh


def svd_backward(
    grad_u: Tensor | None, grad_s: Tensor | None, grad_vh: Tensor | None, u: Tensor, s: Tensor, vh: Tensor
) -> Tensor:
    batch, rows, columns = len(u), u.shape[1], vh.shape[2]
    out = u.new_empty(batch, rows, columns)
    problem = _native.dtype_number(u.dtype), grad_u, grad_s, grad_vh, u, s, vh, batch, rows, columns, out
    module = _native.module()
    if u.is_cpu:
        module.svd_backward_cpu(problem, torch.get_num_threads())
    else:
        index = u.device.index
        workspace = u.new_empty(module.svd_backward_workspace_cuda(problem, index), dtype=torch.uint8)
        stream = torch.cuda.current_stream(u.device).cuda_stream
        module.svd_backward_cuda(problem, workspace.data_ptr(), workspace.numel(), index, stream)
    return out
