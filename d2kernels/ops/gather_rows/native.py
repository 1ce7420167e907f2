"""gather_rows through csrc."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native

_DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


def why_not(device: str, dtype: object) -> str | None:
    return None if dtype in _DTYPES else f"native kernels take float32, bfloat16 and float16, not {dtype}"


def gather_rows_forward(source: Tensor, first: Tensor, offsets: Tensor, lengths: Tensor, out: Tensor) -> None:
    problem = (
        source,
        _native.dtype_number(source.dtype),
        *source.shape,
        first,
        offsets,
        lengths,
        lengths.shape[0],
        out.shape[0],
        out,
        _native.dtype_number(out.dtype),
    )
    if out.is_cpu:
        _native.module().gather_rows_cpu(problem, torch.get_num_threads())
    else:
        _native.module().gather_rows_cuda(problem, *_native.device_and_stream(out.device))
