"""lowest_attention through csrc, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native


def why_not(device: str, dtype: object) -> str | None:
    return _native.why_not_dtype(dtype) or _native.why_not_cpu_only("lowest_attention", device)


def lowest_attention_forward(attention: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    attention, offsets, lengths = attention.contiguous(), offsets.contiguous(), lengths.contiguous()
    place = torch.empty_like(lengths)
    _native.module().lowest_attention_cpu(
        attention.data_ptr(),
        _native.dtype_number(attention.dtype),
        attention.shape[0],
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
        place.data_ptr(),
        torch.get_num_threads(),
    )
    return place
