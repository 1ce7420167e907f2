"""lowest_attention through csrc, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype) or _native.why_not_cpu_only("lowest_attention", device)


def lowest_attention_forward(attention: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    place = lengths.new_empty(*lengths.shape)
    _native.module().lowest_attention_cpu(
        attention,
        _native.dtype_number(attention.dtype),
        attention.shape[0],
        offsets,
        lengths,
        lengths.shape[0],
        place,
        torch.get_num_threads(),
    )
    return place
